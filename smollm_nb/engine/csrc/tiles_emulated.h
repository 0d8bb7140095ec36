// The instructions of tiles.h in plain C. What a processor refuses ends the process here as well.
#ifndef SM_TILES_EMULATED_H
#define SM_TILES_EMULATED_H

static _Thread_local struct {
    sm_tile_shapes shapes; // all zero: none
    uint8_t row[8][16][64];
} sm_tiles;

SM_INLINE void sm_tile_require(int32_t allowed) {
    if (!allowed) __builtin_trap();
}

SM_INLINE void sm_tile_require_shape(int tile) { // it has one
    sm_tile_require(sm_tiles.shapes.palette == 1 && tile >= 0 && tile < 8 && sm_tiles.shapes.rows[tile]);
}

SM_INLINE void sm_tile_release(void) {
    sm_tiles.shapes = (sm_tile_shapes){0};
    for (int tile = 0; tile < 8; tile++)
        for (int r = 0; r < 16; r++)
            for (int i = 0; i < 64; i++) sm_tiles.row[tile][r][i] = 0;
}

SM_INLINE void sm_tile_shape(const sm_tile_shapes *shapes) {
    sm_tile_require(shapes->palette == 1 && !shapes->start);
    for (int i = 0; i < 14; i++) sm_tile_require(!shapes->zero[i]);
    for (int i = 0; i < 16; i++) {
        const int rows = shapes->rows[i], bytes = shapes->bytes[i];
        sm_tile_require(i < 8 ? rows <= 16 && bytes <= 64 && !rows == !bytes : !rows && !bytes);
    }
    sm_tile_release();
    sm_tiles.shapes = *shapes;
}

SM_INLINE void sm_tile_shape_now(sm_tile_shapes *shapes) {
    *shapes = sm_tiles.shapes;
}

SM_INLINE void sm_tile_zero(int tile) {
    sm_tile_require_shape(tile);
    for (int r = 0; r < 16; r++)
        for (int i = 0; i < 64; i++) sm_tiles.row[tile][r][i] = 0;
}

SM_INLINE void sm_tile_load(int tile, const void *from, ptrdiff_t stride) {
    sm_tile_zero(tile);
    for (int r = 0; r < sm_tiles.shapes.rows[tile]; r++)
        for (int i = 0; i < sm_tiles.shapes.bytes[tile]; i++)
            sm_tiles.row[tile][r][i] = ((const uint8_t *)from)[r * stride + i];
}

SM_INLINE void sm_tile_store(int tile, void *to, ptrdiff_t stride) {
    sm_tile_require_shape(tile);
    for (int r = 0; r < sm_tiles.shapes.rows[tile]; r++)
        for (int i = 0; i < sm_tiles.shapes.bytes[tile]; i++)
            ((uint8_t *)to)[r * stride + i] = sm_tiles.row[tile][r][i];
}

SM_INLINE void sm_tile_dot(int sum, int a, int w) {
    const sm_tile_shapes *s = &sm_tiles.shapes;
    sm_tile_require_shape(sum), sm_tile_require_shape(a), sm_tile_require_shape(w);
    sm_tile_require(sum != a && sum != w && a != w);
    sm_tile_require(s->rows[sum] == s->rows[a] && s->bytes[sum] == s->bytes[w] && s->bytes[a] == 4 * s->rows[w]);
    for (int t = 0; t < s->rows[sum]; t++)
        for (int r = 0; r < s->bytes[sum] / 4; r++) {
            uint32_t total;
            __builtin_memcpy(&total, &sm_tiles.row[sum][t][4 * r], 4);
            for (int i = 0; i < s->bytes[a]; i++)
                total += (uint32_t)((int8_t)sm_tiles.row[a][t][i] * sm_tiles.row[w][i / 4][4 * r + i % 4]);
            __builtin_memcpy(&sm_tiles.row[sum][t][4 * r], &total, 4);
        }
}

#endif
