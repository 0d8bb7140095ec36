"Rename the kernel's private words to the field's; run from the repository's root"
import re
from pathlib import Path
D = Path("smollm_nb/engine/csrc")
WORDS = {  # everywhere
 "soften": "softmax_chunk", "SM_STRETCH": "SM_VALUE_GROUP", "stretches": "value_groups", "share_out": "quantize_weights",
 "sm_angles": "sm_rope", "rotate": "apply_rope", "sm_remember": "sm_store_kv", "remember_all": "store_all_kv",
 "sm_share": "sm_split", "sm_least": "sm_min", "sm_pick8": "sm_select8", "sm_pick": "sm_select", "sm_all": "sm_set1", "sm_alli": "sm_set1i",
 "give_way": "back_off", "sm_wait": "sm_barrier", "end_some": "end_workers", "scales_of": "decode_scales",
 "raised": "biased", "sm_low_bits": "sm_nibble_mask", "sm_low_byte": "sm_byte_mask", "SM_LOW_BITS": "SM_NIBBLE_MASK", "SM_LOW_BYTE": "SM_BYTE_MASK",
 "SM_ASK": "SM_PREFETCH", "AHEAD": "PREFETCH_BYTES", "sm_words": "sm_pack_activations", "SM_OWN": "SM_ENTRY", "put": "store_rows",
 "sm_kept": "sm_pin", "fresh": "opaque", "keep": "schedule_here", "most_of": "most_of", "NEAR": "L2", "act_room": "capacity",
 "project": "qkv_projections", "narrow": "keep_wanted", "prepare": "quantize_inputs", "multiply": "matmul", "sm_view": "sm_task",
 "PAIRS": "QUERY_PAIRS",
}
s_all = {p: p.read_text() for p in sorted(D.iterdir())}
for p, s in s_all.items():
    for a, b in WORDS.items(): s = re.sub(rf"\b{a}\b", b, s)
    s = re.sub(r"\bremember\(", "store_kv(", s)
    s = re.sub(r"\bturn\b(?=\[| \+|,|\)|;| \+|\s*=\s*take|\s*\+)", "rope", s) if p.name in ("attention.c", "forward.c", "selftest.c", "api.c", "model.h") else s
    s = re.sub(r"(->|\.)turn\b", r"\1rope", s)
    s = re.sub(r"\*turn\b", "*rope", s) if p.name in ("attention.c", "forward.c", "model.h") else s
    s = re.sub(r"(->|\.)room\b", r"\1capacity", s)
    s = re.sub(r"\bint32_t room;", "int32_t capacity;", s)
    s = re.sub(r"\b(size_t )room\b", r"\1capacity", s) if p.name in ("attention.c", "api.c") else s
    s = re.sub(r"(?<!->)(?<!\.)\broom\b(?= ?[*,);]|\s*=)", "capacity", s) if p.name in ("attention.c", "api.c") else s
    s = re.sub(r"\(int32_t\)room\b", "(int32_t)capacity", s)
    s = re.sub(r"(->|\.)share\b", r"\1weight_pairs", s)
    s = re.sub(r"\bshare\b(?=\[|\)|,)", "pairs", s) if p.name == "attention.c" else s
    s = re.sub(r"\*share\b", "*pairs" if p.name == "attention.c" else "*weight_pairs", s)
    p.write_text(s)
