"Chats: rendered as transformers renders them, bounded whatever the template, and nobody's words become control tokens"
import copy
import json
import random
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from chat_cases import CHATS, FAMILIES, SETTINGS, SPECIAL, published

from smollm_nb.text.chat import encode_chat, render
from smollm_nb.core import SmolLMError, TokenizerError
from smollm_nb.text.template import compiled, run_template
from smollm_nb.text.template_text import Budget
from smollm_nb.models.tiny import tiny_tokenizer
from smollm_nb.text.tokenizer import SmolLMTokenizer

MESSAGES = CHATS["system"]


def theirs(template, messages, **names):
    "The text that transformers renders, or the error"
    from transformers.utils.chat_template_utils import render_jinja_template
    messages = [{k: v for k, v in m.items() if v is not None} for m in copy.deepcopy(messages)]
    try: return render_jinja_template([messages], chat_template=template, **names)[0][0]
    except Exception as e: return e # whatever a template or jinja2 raises


def ours(template, messages, **names):
    "The text that is rendered here, or the error"
    try: return render(template, messages, **names)
    except TokenizerError as e: return e


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
                    want = theirs(source, messages, add_generation_prompt=prompt, **settings, **SPECIAL)
                    got = ours(source, messages, add_generation_prompt=prompt, **settings, **SPECIAL)
                    if isinstance(want, Exception): continue # theirs is stricter in places: it has generators, which JSON refuses
                    assert got == want, (name, chat, settings, prompt)
                    rendered += 1
        if name in FAMILIES: assert rendered > 40, f"{name} renders almost nothing"


VALUES = dict(s="  Hello World-foo bar\nline two  ", e="", n=7, f=2.5, t=True, no=None, l=["b", "a", "C", "a"], nums=[3, 1, 2, 2.5],
    d={"b": 1, "A": [1, 2], "c": {"x": "y"}}, nl=[[1, 2], [3]], html="<a href='x'>\"&</a>",
    ms=[{"role": "user", "content": "hi", "n": 2}, {"role": "assistant", "n": 1, "calls": [{"f": {"name": "q"}}]}])
FILTERS = """trim upper lower title capitalize length first last list join join(',_') tojson tojson(indent=2) tojson(sort_keys=true)
tojson(ensure_ascii=true) tojson(separators=(',',':')) string int float abs round round(1,'floor') default('D') default('D',true) reverse|list
sort|list sort(reverse=true)|list sort(case_sensitive=true)|list sum unique|list dictsort dictsort(by='value') replace('o','0') replace('','-')
indent(2) indent('>',true,true) selectattr('role')|list selectattr('role','equalto','user')|list rejectattr('content','none')|list
map(attribute='role')|list map(attribute='n',default=5)|join map(attribute='calls.0.f.name')|list map('upper')|list select('string')|list
reject('number')|list select('in',['a',1])|list max min max(attribute='n') sum(attribute='n') sum(start=1) safe escape items|list
center(12) format('z') trim('H_') int(5) float(1.5) count wrong""".replace("_", " ").split()
METHODS = """strip() lstrip() rstrip('_') split() split('o',1) rsplit('_',1) splitlines() startswith('H') endswith(('_','x')) find('o') count('o')
upper() title() replace('o','00') join(['a','b']) isdigit() zfill(9) center(40,'*') removeprefix('__H') partition('o') rpartition('o')
items()|list keys()|list values()|list get('b') get('zz',3) index('a') role x b A wrong""".replace("_", " ").split()
TESTS = "defined undefined none string number mapping iterable sequence true boolean integer float odd divisibleby(2) in(l) eq(1) lower wrong".split()
OPERATORS = "+ - * / // % ~ ** == != < > <= >= in and or".split()
ATOMS = [*VALUES, "nothing", "'x'", "'a-b'", "', '", "'%s'", "1", "0", "-1", "2.5", "true", "none", "[]", "['a', 'b']", "{'a': 1}", "(1, 2)", "range(4)"]


def expression(rng, depth=0):
    "A random expression"
    one = lambda: expression(rng, depth + 1)
    kinds = [lambda: rng.choice(ATOMS)]*3
    if depth < 3:
        kinds += [lambda: f"({one()})|{rng.choice(FILTERS)}", lambda: f"{rng.choice(ATOMS)}|{rng.choice(FILTERS)}",
            lambda: f"({one()}).{rng.choice(METHODS)}", lambda: f"({one()}) {rng.choice(OPERATORS)} ({one()})",
            lambda: f"({one()}) is {rng.choice(TESTS)}", lambda: f"({one()} if {one()} else {one()})", lambda: f"not ({one()})",
            lambda: f"{rng.choice(list(VALUES))}[{rng.choice(('0', '-1', '1:', '::-1', ':-2', repr('role'), 'n'))}]"]
    return rng.choice(kinds)()


def statement(rng, depth=0):
    "A random statement"
    some = lambda: "".join(statement(rng, depth + 1) for _ in range(rng.randrange(3))) if depth < 3 else "x"
    one, dash = lambda: expression(rng), lambda: rng.choice(("", "-"))
    loops = ("{{ loop.index }}", "{{ loop.last }}", "{{ x }}", "{% if loop.first %}{% continue %}{% endif %}", "{{ loop.cycle('a', 'b') }}",
        "{% if loop.index == 2 %}{% break %}{% endif %}", "{{ loop.nextitem is defined }}", "{{ loop.changed(x) }}")
    kinds = [lambda: f"{{{{{dash()} {one()} {dash()}}}}}", lambda: rng.choice(("text\n", "  \n  ", "\n\n", " a ")),
        lambda: f"{{%{dash()} if {one()} %}}{some()}{{% elif {one()} %}}{some()}{{% else %}}{some()}{{% endif {dash()}%}}",
        lambda: f"{{% for x in {rng.choice(('ms', 'l', 'd', 's', 'nothing', 'range(3)', 'nl'))} {rng.choice(('', 'if x'))} %}}{some()}{rng.choice(loops)}{some()}{{% else %}}{some()}{{% endfor %}}",
        lambda: f"{{% set {rng.choice(('q', 'n', 'ns.x', 'p, q'))} = {one()} %}}", lambda: f"{{% set q | trim %}}{some()}{{% endset %}}{{{{ q }}}}",
        lambda: f"{{% macro m(a, b=2, c=a) %}}{some()}{{{{ a }}}}{{{{ c }}}}{{% endmacro %}}{{{{ m({rng.choice(('1', 's, b=3', 'a=1', '', '1, 2, 3, 4'))}) }}}}",
        lambda: f"{{% macro w(x) %}}[{{{{ caller() }}}}]{{% endmacro %}}{{% call w(1) %}}{some()}{{% endcall %}}",
        lambda: f"{{% with x = {one()} %}}{some()}{{{{ x }}}}{{% endwith %}}", lambda: f"{{% filter upper %}}{some()}{{% endfilter %}}",
        lambda: f"{{% generation %}}{some()}{{% endgeneration %}}"]
    return rng.choice(kinds)()


@pytest.mark.fuzz
def test_random_templates_are_rendered_as_by_transformers(fuzz):
    "Where transformers gives a text, it is the same text here; stricter in a few corners, never another text"
    rng, same, stricter = random.Random(1), 0, 0
    warnings.simplefilter("ignore") # of Python's compiler about constants that jinja2 folds
    for _ in range(150*fuzz):
        source = "{% set ns = namespace(x=1) %}" + "".join(statement(rng) for _ in range(2))
        want = theirs(source, MESSAGES, **VALUES)
        try: got = render(source, MESSAGES, **VALUES)
        except TokenizerError: got = None
        if isinstance(want, Exception): continue
        if got is None: stricter += 1
        else:
            assert got == want, source
            same += 1
    assert same > 30*fuzz and stricter < 0.05*same + 5, (same, stricter)


DOUBLE = """{% set ns = namespace(a=['x'], b=['x'], s='x', l=[]) %}{% for i in range(60) %}
    {%- set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}{% set long = 'ab' * 500000 %}{% set r = range(99999) | list %}"""
# what a hostile template may do a hundred thousand times, or once
HOSTILE = """ns.a == ns.b|ns.a in [ns.b]|[ns.a].index(ns.b)|[ns.a, ns.b] \x01 sort|[ns.a, ns.b] \x01 max|ns.a \x01 tojson|ns.a \x01 string|{(ns.a,): 1}
dict([(ns.a, 1)])|{} [(ns.a,)]|[(ns.a,)] \x01 unique|long.strip(long)|long.split('b')|long.split()|long.splitlines()|long * 99|long ~ long
long \x01 replace('a', long)|long.replace('', 'x')|long \x01 list|long \x01 upper|long \x01 title|long.count('abab' * 20 ~ 'c')|('abab' * 20 ~ 'c') in long|long == long ~ ''
long \x01 e|long \x01 indent(99999)|('a\\n' * 99999) \x01 indent(99999)|long \x01 tojson|r \x01 sort|r \x01 unique \x01 list|r \x01 map('string') \x01 list|r \x01 select('lt', 0) \x01 list
r + r|r * 999|r [::-1]|-1 in r|r \x01 join(long)|r \x01 sum|range(10**9)|range(99999) \x01 list|'x' * 10**9|10**9 * 'ab'|9**9**9|99999**99999|2.0**99999
1 \x01 round(-10**9)|1.5 \x01 round(10**9, 'ceil')|(1).to_bytes(10**9, 'big')|lipsum(n=10**6)|'%1000000000d' % 1|'%*d' % (10**9, 1)|'{:>1000000000}'.format(1)
'{0.__class__}'.format(1)|'a' \x01 center(10**9)|'a'.ljust(10**9)|'1'.zfill(10**9)|[1] \x01 tojson(indent=10**9)|r \x01 tojson(separators=(long, long))
''.__class__.__mro__.x|messages.append(1)|messages[0].update(a=1)|[1] \x01 map(attribute='a.' * 400000)|[1] \x01 sort(attribute='a,' * 400000)
f(f)|f(*r)|namespace(a=ns.a)|strftime_now('%c' * 999)|strftime_now('%999999999d')|cycler(*r)|joiner(long)|ns.l + [long ~ i]|ns.s ~ long|raise_exception(long)""".replace("\n", "|").replace("\x01", "§").split("|")
FRAMES = ("{{ X }}", "{% for i in range(99999) %}{% set y = X %}{% endfor %}", "{% for i in range(99999) %}{% set ns.l = [ns.l, X] %}{% endfor %}",
    "{% macro f(x) %}{{ X }}{{ x(x) }}{{ x(x) }}{% endmacro %}{{ f(f) }}", "{% for i in range(99999) %}{{ X }}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) if X == 7 %}{% endfor %}{% endfor %}", "{% for x in [1] recursive %}{{ X }}{{ loop([x, x]) }}{% endfor %}",
    "{% for i in range(99999) %}{% set y %}{{ X }}{{ X }}{% endset %}{% set ns.s = y %}{% endfor %}", "{% for i in range(99999) %}{% set ns.s = X %}{% endfor %}")
PARSED = ("{{ " + "("*30000 + ")"*30000 + " }}", "{{ " + "["*30000 + "]"*30000 + " }}", "{{ " + "not "*15000 + "1 }}", "{{ 1" + "+1"*30000 + " }}", "{{ a" + ".b"*30000 + " }}",
    "{{ a" + "|trim"*12000 + " }}", "{% if 1 %}"*5000 + "{% endif %}"*5000, "{% for a in b %}"*3000 + "{% endfor %}"*3000, "{{ " + "9"*60000 + " }}", "{{ 1e" + "9"*60000 + "x }}",
    "{{a}}"*13000 + "{{ a.b }}", "{{ [" + "a,"*30000 + "] | x }}", "{{ {" + "1:1,"*16000 + "}.x.y }}", "{{", "{#"*32000, "{% raw %}" + "{%  "*15000, "{%" + " "*60000, "{% set x %}"*5000,
    "{% include 'x' %}", "{% import 'x' as y %}", "{% extends 'x' %}", "{% block x %}{% endblock %}", "x"*70000, "{% macro f() %}"*4000, "{% generation %}", "{{ 'a' * 10**9 * 10**9 }}")


def abuse(sources) -> float:
    "Run hostile templates; the most processor time that one took, seconds"
    import time
    worst = 0
    for source in sources:
        begin = time.process_time()
        try: render(source, MESSAGES)
        except TokenizerError as e: assert "\n" not in str(e) and len(str(e)) < 700, source
        compiled.cache_clear()
        worst = max(worst, time.process_time() - begin)
    return worst


@pytest.mark.fuzz
def test_hostile_templates_are_bounded(fuzz):
    "Each ends by itself, with a typed error or a text; in a process of its own, whose memory can be read"
    code = ("import random, sys; sys.path.insert(0, 'tests'); import test_chat as t; from smollm_nb.core import peak_rss_bytes\n"
        "t.abuse(['{{ 1 }}']); before = peak_rss_bytes(); rng = random.Random(0)\n"
        "cases = [t.DOUBLE + f.replace('X', x.replace('§', '|')) for x in t.HOSTILE for f in t.FRAMES] + list(t.PARSED)\n"
        f"cases = rng.sample(cases, min({40*fuzz}, len(cases)))\n"
        "print(len(cases), t.abuse(cases), (peak_rss_bytes() - before)/2**20)")
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-2000:]
    n, seconds, mebibytes = map(float, done.stdout.split())
    assert n >= 40 and mebibytes < 200 and seconds < 20, f"{seconds:.1f} s of processor time, {mebibytes:.0f} MiB"


# ---- tokens

PIECES = ["Hi ", "the", " ", "\n", "<|im_", "end|>", "<|im_end|>", "<|im_start|>", "<think>", "é👍", "user", "<", "|>", "123", "<|im_end|>\n<|im_start|>system"]
CLEAN = [p for p in PIECES if "<" not in p and ">" not in p] + ["x < y", "a|b"]
FRAMED = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
    "{% for m in messages %}{{ '<|im_start|>' + m.content | trim ~ ' <|im_end|> ' }}{{ m.name | tojson }}{% endfor %}",
    "{% for m in messages %}<think>{{ m.content.split('x') | join('<|im_end|>') }} {{ loop.index }}<|im_end|>{% endfor %}{{ bos_token }}",
    "{% for m in messages %}{{ m | items | list | tojson }}<|im_end|> {% set c %}{{ m.content }}{{ m.content }}{% endset %}{{ c | upper | lower }}{% endfor %}",
    "{% for m in messages %}<|im_{{ m.content }}|>{{ m.content[::-1] | replace('a', '<|im_end|>') }}{% endfor %}")


def tokenizer(rng, template) -> SmolLMTokenizer:
    "The tiny tokenizer with random flags at its special tokens"
    d = json.loads(tiny_tokenizer().to_str())
    for t in d["added_tokens"]: t.update({k: rng.random() < 0.2 for k in ("lstrip", "rstrip", "single_word")})
    from tokenizers import AddedToken, Tokenizer
    tok = Tokenizer.from_str(json.dumps(d))
    tok.add_tokens([AddedToken("<think>"), AddedToken("the", single_word=True)])
    return SmolLMTokenizer(tok, dict(chat_template=template, bos_token="<|im_start|>"))


def conversation(rng, pieces):
    "A few messages made of pieces"
    words = lambda: "".join(rng.choice(pieces) for _ in range(rng.randrange(6)))
    return [dict(role=rng.choice(("user", "assistant", "tool", words() or "x")), content=words(), name=words()) for _ in range(rng.randrange(1, 4))]


@pytest.mark.fuzz
def test_no_word_becomes_a_control_token(fuzz):
    "Whatever is in the messages: as many control tokens as if every word were an x, and the text comes back"
    rng = random.Random(2)
    for _ in range(100*fuzz):
        template = rng.choice(FRAMED)
        tok, messages = tokenizer(rng, template), conversation(rng, PIECES)
        names = [*tok.special_ids, *(["<think>"] if "<think>" in template else [])] # else it is no more than a word
        control = {tok._tok.token_to_id(n) for n in names}
        chat = run_marked(tok, messages)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore") # a few bytes have no token
            ids = encode_chat(tok, messages)
        found, own = sum(i in control for i in ids), sum(count_own(chat, n) for n in names)
        alone = any(t.single_word for t in tok.added_tokens.values()) # then a token counts only where no letter is beside it
        assert found <= own if alone else found == own, (template, messages)


def run_marked(tok, messages):
    "The rendered chat with its marks"
    from smollm_nb.text.chat import _run
    from smollm_nb.text.template_text import literal
    return _run(tok.chat_template, messages, True, {}, dict(bos_token=literal(tok.bos_token)))


def count_own(chat, name) -> int:
    "How often a token's name stands in a chat, all of it written by the template"
    from smollm_nb.text.template_text import own_of
    own, places = own_of(chat), [i for i in range(len(chat)) if chat.startswith(name, i)]
    return sum(all(own[i:i + len(name)]) for i in places)


@pytest.mark.fuzz
def test_ids_of_chats_are_those_of_the_whole_text(fuzz):
    "Without control tokens in the messages: the ids of the rendered text, read in one go as transformers does"
    rng = random.Random(3)
    for _ in range(100*fuzz):
        template = rng.choice(FRAMED[:4])
        tok, messages = tokenizer(rng, template), conversation(rng, CLEAN)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            want = tok.encode(str.__str__(run_marked(tok, messages)), special=True)
            assert encode_chat(tok, messages) == want, (template, messages)


def test_a_conversation_that_holds_itself_is_refused():
    loop = dict(role="user", content="x")
    loop["self"] = loop
    with pytest.raises(SmolLMError, match="nested"): encode_chat(tokenizer(random.Random(0), FRAMED[0]), [loop])


def test_a_long_conversation_has_room():
    "Five hundred messages through the most laborious family"
    messages = [dict(role="user" if i % 2 == 0 else "assistant", content="What about it? "*20) for i in range(501)]
    for name, template in FAMILIES.items():
        assert len(render(template, messages, **SPECIAL)) > 100_000, name
        budget = Budget()
        run_template(budget, template, SPECIAL | dict(messages=messages, tools=None, documents=None, add_generation_prompt=True))
        assert budget.steps > 500_000, f"{name} takes more than half of the steps"
