"Properties that hold for every input, searched by hypothesis"

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smollm_nb.core import ContextOverflowError
from smollm_nb.inference.generation import OVERFLOW, StopStrings, fit_context, shared_prefix
from smollm_nb.inference.sampling import PCG32, SamplingParams, candidates, sample
from smollm_nb.models.tiny import CHAT_TEMPLATE, MISSING_BYTES, SPECIAL_TOKENS, tiny_tokenizer
from smollm_nb.text.chat import encode_chat
from smollm_nb.text.tokenizer import SmolLMTokenizer, StreamDecoder

TOK = SmolLMTokenizer(tiny_tokenizer(), dict(chat_template=CHAT_TEMPLATE))
spelled = st.characters(exclude_categories=["Cs"]).filter(lambda c: not set(c.encode()) & set(MISSING_BYTES))
texts = st.lists(
    st.one_of(
        st.text(spelled, max_size=20), st.sampled_from([*SPECIAL_TOKENS, "<|im_", "\r\n", "  ", "٤٢", "½", "👩‍🚀"])
    ),
    max_size=8,
).map("".join)
ids = st.lists(st.integers(0, TOK.vocab_size - 1), max_size=40)


@given(texts, st.booleans())
def test_text_comes_back(text, special):
    assert TOK.decode(TOK.encode(text, special)) == text


@given(texts)
def test_plain_text_holds_no_special_token(text):
    assert not set(TOK.encode(text)) & set(TOK.special_ids.values())


@given(ids, st.booleans())
def test_stream_adds_up_to_decode(ids, skip):
    stream = StreamDecoder(TOK, skip_special=skip)
    assert "".join([stream.push(i) for i in ids] + [stream.flush()]) == TOK.decode(ids, skip_special=skip)


@given(texts)
def test_stream_never_shows_half_a_character(text):
    stream = StreamDecoder(TOK, skip_special=False)
    shown = ""
    for i in TOK.encode(text):
        shown += stream.push(i)
        assert text.startswith(shown)
    assert stream.flush() == ""
    assert shown == text


@given(st.lists(texts, min_size=1, max_size=4))
def test_chat_keeps_words_as_words(contents):
    messages = [dict(role="user", content=c) for c in contents]
    ids = encode_chat(TOK, messages)
    assert ids.count(1) == len(messages) + 1
    assert ids.count(2) == len(messages)
    assert sum(i in TOK.special_ids.values() for i in ids) == 2 * len(messages) + 1
    if not any(t in c for t in SPECIAL_TOKENS for c in contents):
        assert ids == encode_chat(TOK, messages, special=True)


logits = st.integers(0, 2**32).map(lambda s: np.random.default_rng(s).standard_normal(300).astype(np.float32) * 4)
params = st.builds(
    SamplingParams,
    temperature=st.floats(0.01, 100),
    top_k=st.integers(0, 400),
    top_p=st.floats(0, 1),
    min_p=st.floats(0, 1),
    repetition_penalty=st.floats(0.5, 2),
    seed=st.integers(0, 2**64 - 1),
)


@given(logits, params, st.lists(st.integers(0, 299), max_size=10))
def test_candidates_are_the_likeliest(logits, params, history):
    ids, p = candidates(logits, params, history)
    assert len(ids) >= 1
    assert (np.diff(ids) > 0).all()
    assert abs(p.sum() - 1) < 1e-9
    assert sample(logits, params, PCG32(params.seed), history) in ids
    if params.top_k:
        assert len(ids) <= params.top_k
    if params.repetition_penalty == 1:
        assert logits[ids].min() >= np.sort(logits)[-len(ids)], "nothing left out is likelier than what stayed"


@given(logits, st.integers(0, 2**64 - 1))
def test_limits_of_the_sampler(logits, seed):
    best = int(logits.argmax())
    for kw in (
        dict(temperature=0.0),
        dict(temperature=1.0, top_p=0.0),
        dict(temperature=1.0, top_k=1),
        dict(temperature=1.0, min_p=1.0),
        dict(temperature=0.01, top_p=0.01),
    ):
        assert sample(logits, SamplingParams(**kw, seed=seed), PCG32(seed)) == best
    assert len(candidates(logits, SamplingParams(temperature=1.0, top_p=1.0))[0]) == 300


words = st.text("abc", max_size=30)


@given(
    words,
    st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(0, 30), max_size=8),
)
def test_stop_strings_do_not_depend_on_the_cuts(text, stops, cuts):
    cuts = sorted({min(c, len(text)) for c in [0, *cuts, len(text)]})
    s = StopStrings(stops)
    shown = ""
    for a, b in zip(cuts, cuts[1:]):
        shown += s.push(text[a:b])
        if s.found:
            break
    shown += s.flush()
    ends = [text.index(w) + len(w) for w in stops if w in text]
    if not ends:
        assert shown == text
        assert s.found is None
    else:
        assert s.found in stops
        assert text.startswith(shown + s.found)
        assert not any(w in shown for w in stops), "nothing of a stop string is shown"


@given(st.integers(1, 40), st.integers(0, 40), st.integers(1, 40), st.sampled_from(OVERFLOW))
def test_what_fits_fits(n, new, context, overflow):
    prompt = list(range(n))
    try:
        kept, budget, cut = fit_context(prompt, new, context, overflow)
    except ContextOverflowError:
        assert n + new > context
        return
    assert 1 <= len(kept)
    assert len(kept) + budget <= context
    assert prompt[n - len(kept) :] == kept
    assert cut == ((kept, budget) != (prompt, new))


@given(st.lists(st.integers(0, 2), max_size=10), st.lists(st.integers(0, 2), max_size=10))
def test_shared_prefix(a, b):
    n = shared_prefix(a, b)
    assert a[:n] == b[:n]
    assert n == min(len(a), len(b)) or a[n] != b[n]


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
@settings(max_examples=20)
@given(stream=st.integers(0, 2**63 - 1))
def test_pcg_stays_in_range(seed, stream):
    rng = PCG32(seed, stream)
    assert all(0 <= rng.next() < 2**32 and 0 <= rng.uniform() < 1 for _ in range(20))
