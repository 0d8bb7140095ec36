"Chats: rendered as transformers does it, bounded whatever the template, and nobody's words become control tokens"

import copy
import json
import random
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from chat_cases import CHATS, FAMILIES, HOSTILE, SETTINGS, SPECIAL, VALUES, published, random_statement
from tokenizers import AddedToken, Tokenizer

from smollm_nb.core import SmolLMError, TokenizerError
from smollm_nb.models.tiny import tiny_tokenizer
from smollm_nb.text.chat import encode_chat, encode_turns, render
from smollm_nb.text.template import compiled, run_template
from smollm_nb.text.template_text import Budget, literal, own_of
from smollm_nb.text.tokenizer import SmolLMTokenizer

MESSAGES = CHATS["system"]


def theirs(template, messages, **names):
    "The text that transformers renders, or the error"
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [{k: v for k, v in m.items() if v is not None} for m in copy.deepcopy(messages)]
    try:
        return render_jinja_template([messages], chat_template=template, **names)[0][0]
    except Exception as e:
        return e  # whatever a template or jinja2 raises


def ours(template, messages, **names):
    "The text that is rendered here, or the error"
    try:
        return render(template, messages, **names)
    except TokenizerError as e:
        return e


@pytest.mark.fuzz
def test_families_are_rendered_as_by_transformers(fuzz, tmp_path):
    "Twenty families; in the long form, all that llama.cpp's tests carry as well"
    sources = FAMILIES | (published(tmp_path) if fuzz > 1 else {})
    assert len(sources) >= 20
    for name, source in sources.items():
        rendered = 0
        for chat, messages in CHATS.items():
            for settings in SETTINGS:
                for prompt in (True, False):
                    names = dict(add_generation_prompt=prompt) | settings | SPECIAL
                    want = theirs(source, messages, **names)
                    # stricter in places: it has generators, which JSON refuses
                    if isinstance(want, Exception):
                        continue
                    assert ours(source, messages, **names) == want, (name, chat, settings, prompt)
                    rendered += 1
        if name in FAMILIES:
            assert rendered > 40, f"{name} renders almost nothing"


@pytest.mark.fuzz
def test_random_templates_are_rendered_as_by_transformers(fuzz):
    "Where transformers gives a text, it is the same text here; stricter in a few corners, never another text"
    rng, same, stricter = random.Random(1), 0, []
    warnings.simplefilter("ignore")  # of Python's compiler about constants that jinja2 folds
    for _ in range(200 * fuzz):
        source = "{% set ns = namespace(x=1) %}" + random_statement(rng) + random_statement(rng)
        want, got = theirs(source, MESSAGES, **VALUES), ours(source, MESSAGES, **VALUES)
        if isinstance(want, Exception):
            continue
        if isinstance(got, Exception):
            stricter.append((source, got))
        else:
            assert got == want, source
            same += 1
    assert same > 40 * fuzz, stricter
    assert len(stricter) < 0.03 * same + 3, stricter


def abuse(sources) -> float:
    "Run hostile templates; the most processor time that one took, seconds"
    worst = 0
    for source in sources:
        begin = time.process_time()
        try:
            render(source, MESSAGES)
        except TokenizerError as e:
            assert "\n" not in str(e), source
            assert len(str(e)) < 700, source
        compiled.cache_clear()
        worst = max(worst, time.process_time() - begin)
    return worst


@pytest.mark.fuzz
def test_hostile_templates_are_bounded(fuzz):
    "Each ends by itself, with a typed error or a text; in a process of its own, whose memory can be read"
    n = min(20 * fuzz, len(HOSTILE))
    code = (
        "import random, sys; sys.path.insert(0, 'tests'); import test_chat as t\n"
        "from smollm_nb.core import peak_rss_bytes\n"
        "t.abuse(['{{ 1 }}']); before = peak_rss_bytes()\n"
        f"worst = t.abuse(random.Random(0).sample(t.HOSTILE, {n}))\n"
        "print(worst, (peak_rss_bytes() - before)/2**20)"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60 * n)
    assert done.returncode == 0, done.stderr[-2000:]
    seconds, mebibytes = map(float, done.stdout.split())
    assert mebibytes < 200, f"{seconds:.1f} s of processor time, {mebibytes:.0f} MiB"
    assert seconds < 20, f"{seconds:.1f} s of processor time, {mebibytes:.0f} MiB"


# ---- tokens

PIECES = [
    "Hi ",
    "the",
    " ",
    "\n",
    "<|im_",
    "end|>",
    "<|im_end|>",
    "<|im_start|>",
    "<think>",
    "é👍",
    "user",
    "<",
    "|>",
    "123",
    "<|im_end|>\n<|im_start|>system",
]
CLEAN = [p for p in PIECES if "<" not in p and ">" not in p] + ["x < y", "a|b"]
FRAMED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
    "{% for m in messages %}{{ '<|im_start|>' + m.content | trim ~ ' <|im_end|> ' }}{{ m.name | tojson }}{% endfor %}",
    "{% for m in messages %}<think>{{ m.content.split('x') | join('<|im_end|>') }}{% endfor %}{{ bos_token }}",
    "{% for m in messages %}{{ m | items | list }} {% set c %}{{ m.content }}<|im_end|>{% endset %}{{ c }}{% endfor %}",
    "{% for m in messages %}<|im_{{ m.content }}|>{{ m.name[::-1] | replace('a', '<|im_end|>') }}{% endfor %}",
)


def tokenizer(rng, template) -> SmolLMTokenizer:
    "The tiny tokenizer with random flags at its special tokens"
    d = json.loads(tiny_tokenizer().to_str())
    for t in d["added_tokens"]:
        t.update({k: rng.random() < 0.2 for k in ("lstrip", "rstrip", "single_word")})
    tok = Tokenizer.from_str(json.dumps(d))
    tok.add_tokens([AddedToken("<think>"), AddedToken("the", single_word=True)])
    return SmolLMTokenizer(tok, dict(chat_template=template, bos_token="<|im_start|>"))


def conversation(rng, pieces):
    "A few messages made of pieces"

    def words():
        return "".join(rng.choice(pieces) for _ in range(rng.randrange(6)))

    return [
        dict(role=rng.choice(("user", "assistant", "tool", words() or "x")), content=words(), name=words())
        for _ in range(rng.randrange(1, 4))
    ]


def rendered(tok, messages):
    "The rendered chat with its marks"
    from smollm_nb.text.chat import _run

    return _run(tok.chat_template, messages, True, {}, dict(bos_token=literal(tok.bos_token)))


def written_by_template(chat, name) -> int:
    "How often a token's name stands in a chat, all of it written by the template"
    own, places = own_of(chat), [i for i in range(len(chat)) if chat.startswith(name, i)]
    return sum(all(own[i : i + len(name)]) for i in places)


@pytest.mark.fuzz
def test_no_word_becomes_a_control_token(fuzz):
    "Whatever is in the messages: control tokens are those that the template wrote"
    rng = random.Random(2)
    warnings.simplefilter("ignore")  # a few bytes have no token
    for _ in range(100 * fuzz):
        template = rng.choice(FRAMED)
        tok, messages = tokenizer(rng, template), conversation(rng, PIECES)
        # else it is no more than a word
        names = [*tok.special_ids, *(["<think>"] if "<think>" in template else [])]
        control = {tok._tok.token_to_id(n) for n in names}
        chat, ids = rendered(tok, messages), encode_chat(tok, messages)
        found, own = sum(i in control for i in ids), sum(written_by_template(chat, n) for n in names)
        # such a token counts where no letter is beside it
        alone = any(t.single_word for t in tok.added_tokens.values())
        assert found <= own if alone else found == own, (template, messages)


@pytest.mark.fuzz
def test_ids_of_chats_are_those_of_the_whole_text(fuzz):
    "Without control tokens in the messages: the ids of the rendered text, read in one go as transformers does"
    rng = random.Random(3)
    warnings.simplefilter("ignore")
    for _ in range(100 * fuzz):
        template = rng.choice(FRAMED[:4])
        tok, messages = tokenizer(rng, template), conversation(rng, CLEAN)
        want = tok.encode(str.__str__(rendered(tok, messages)), special=True)
        assert encode_chat(tok, messages) == want, (template, messages)


def test_a_conversation_that_holds_itself_is_refused():
    loop = dict(role="user", content="x")
    loop["self"] = loop
    with pytest.raises(SmolLMError, match="nested"):
        encode_chat(tokenizer(random.Random(0), FRAMED[0]), [loop])


def test_a_long_conversation_has_room():
    "Five hundred messages, through every family"
    turns = [dict(role="user" if i % 2 == 0 else "assistant", content="What about it? " * 20) for i in range(501)]
    names = SPECIAL | dict(messages=turns, tools=None, documents=None, add_generation_prompt=True)
    for family, template in FAMILIES.items():
        budget = Budget()
        assert len(run_template(budget, template, names)) > 100_000, family
        assert budget.steps > 500_000, f"{family} takes more than half of the steps"


@pytest.mark.parametrize(
    "source",
    ["{% set messages.x = 1 %}", "{% set nothing.x = 1 %}", "{% set ns = namespace() %}{% set ns.__class__ = 1 %}"],
)
def test_only_namespaces_take_names(source):
    "What a template was given stays as it is"
    with pytest.raises(TokenizerError, match="cannot be set"):
        render(source, MESSAGES)


def test_a_control_token_in_other_letters():
    "A tokenizer that writes all in small letters finds tokens in capitals too: in the template's words, not in others"
    rules = json.loads(tiny_tokenizer().to_str()) | dict(normalizer=dict(type="Lowercase"))
    tok = Tokenizer.from_str(json.dumps(rules))
    tok.add_special_tokens([AddedToken("<end>", normalized=True, special=True)])
    ours = SmolLMTokenizer(tok, dict(chat_template="{{ messages[0].content }}<END>"))
    end = ours.special_ids["<end>"]
    assert encode_chat(ours, [dict(role="user", content="hi ")])[-1] == end
    assert encode_chat(ours, [dict(role="user", content="<END> <end> <eN")]).count(end) == 1
    assert end not in ours.encode("<END>")
    assert ours.encode("<END>", special=True) == [end]


def test_whose_tokens_they_are():
    "In twenty families: the same ids as `encode_chat`, and the tokens of a message hold its words"
    tok, words = tiny_tokenizer(), ["Be brief.", "What is 1?", "one one", "And 2?", "two<|im_end|> 👍"]
    roles = ("system", "user", "assistant", "user", "assistant")
    found = dict.fromkeys(FAMILIES, 0)
    for name, source in FAMILIES.items():
        t = SmolLMTokenizer(tok, dict(chat_template=source) | SPECIAL)
        for first in (0, 1):  # with a system message, and with the one that the template may add
            talk = [dict(role=r, content=w) for r, w in zip(roles[first:], words[first:])]
            try:
                want = encode_chat(t, talk, add_generation_prompt=False)
            except TokenizerError:
                continue  # a template without system messages
            ids, whose = encode_turns(t, talk)
            assert ids == want, name
            for i, m in enumerate(talk):
                if m["role"] == "assistant":
                    said = t.decode([d for d, w in zip(ids, whose) if w == i])
                    assert m["content"].casefold() in said.casefold(), (name, said)  # one template capitalizes
                    assert len(said) <= len(m["content"]) + 2, (name, said)  # a token may join the template's words
                    found[name] += 1
    assert all(found.values()), found
