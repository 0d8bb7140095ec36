"Conversations, templates in the manner of well-known model families, and random ones: what chats are tried with"

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

DATA = Path(__file__).parent / "data"
FAMILIES = {p.stem: p.read_text(encoding="utf-8") for p in sorted((DATA / "chat_templates").glob("*.jinja"))}
SPECIAL = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")

_properties = dict(
    city=dict(type="string", enum=["Paris", "Rom"]),
    days=dict(type=["integer", "null"], default=3),
    more=dict(type="array", items=dict(type="string")),
)
_weather = dict(
    name="get_weather",
    description="Weather of <a> 'city' & \"more\" é",
    parameters=dict(type="object", properties=_properties, required=["city"]),
)
_nothing = dict(name="nothing", description="Does nothing", parameters=dict(type="object", properties={}))
TOOLS = [dict(type="function", function=_weather), dict(type="function", function=_nothing)]
_arguments = dict(city="Paris", days=2, nested=dict(b=[1, 2.5, None, True], a="ü"))
_call = dict(id="abc123def", type="function", function=dict(name="get_weather", arguments=_arguments))
_written = dict(id="abc123def", type="function", function=dict(name="get_weather", arguments='{"city": "Rom"}'))
_result = dict(name="get_weather", tool_call_id="abc123def")


def message(role, content=None, **more):
    "A message; without content if none is given"
    return dict(role=role, **more) | ({} if content is None else dict(content=content))


def part(words):
    "A part of a message's content"
    return dict(type="text", text=words)


CHATS = dict(
    one=[message("user", "Hi there")],
    system=[message("system", "Be  brief.\n"), message("user", ' What\'s 1 < 2 & "3"?\n')],
    turns=[message("user", "a"), message("assistant", "b "), message("user", "c")],
    thoughts=[
        message("system", "S /no_think"),
        message("user", "a"),
        message("assistant", "<think>\nhm\n</think>\n\nb"),
        message("user", "c"),
        message("assistant", "<think>so</think>d"),
    ],
    reasoning=[message("user", "a"), message("assistant", "b", reasoning_content="because\n"), message("user", "c")],
    parts=[
        message("user", [part("look "), part("here")]),
        message("assistant", [part("ok")]),
        message("user", [dict(type="image"), part("x")]),
    ],
    tools=[
        message("user", "Weather?"),
        message("assistant", "", tool_calls=[_call]),
        message("tool", "22 C", **_result),
        message("assistant", "It's 22."),
        message("user", "thanks"),
    ],
    several=[
        message("system", "s"),
        message("user", "Weather?"),
        message("assistant", tool_calls=[_call, _call]),
        message("tool", json.dumps(dict(t=22)), **_result),
        message("tool", "x", **_result),
    ],
    written=[
        message("user", "Weather?"),
        message("assistant", tool_calls=[_written]),
        message("tool", [part("22")], **_result),
    ],
    developer=[message("developer", "D"), message("user", "U")],
    twice=[message("user", "u1"), message("user", "u2")],
    odd=[message("assistant", "first"), message("user", "é👍\u2028\n\n  x\n", name="Ann")],
)
SETTINGS = (
    dict(),
    dict(tools=TOOLS),
    dict(tools=TOOLS[:1], documents=[dict(doc_id=1, title="T", text="words")]),
    dict(tools=[]),
    dict(enable_thinking=False, date_string="26 Jul 2024"),
    dict(enable_thinking=True, reasoning_effort="high", controls=dict(citations=True)),
)


def published(folder) -> dict[str, str]:
    "The chat templates that llama.cpp carries for its tests, out of a source package on PyPI"
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(folder)]
    subprocess.run([*pip, "llama-cpp-python==0.3.36"], check=True)
    with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as tar:
        files = [m for m in tar if m.name.endswith(".jinja") and "/models/templates/" in m.name]
        return {Path(m.name).stem: io.TextIOWrapper(tar.extractfile(m), encoding="utf-8").read() for m in files}


# ---- random templates

VALUES = dict(
    s="  Hello World-foo bar\nline two  ",
    e="",
    n=7,
    f=2.5,
    t=True,
    no=None,
    l=["b", "a", "C", "a"],
    nums=[3, 1, 2, 2.5],
    d={"b": 1, "A": [1, 2], "c": {"x": "y"}},
    nl=[[1, 2], [3]],
    html="<a href='x'>\"&</a>",
    ms=[{"role": "user", "content": "hi", "n": 2}, {"role": "assistant", "n": 1, "calls": [{"f": {"name": "q"}}]}],
)
ATOMS = [
    *VALUES,
    "nothing",
    "'x'",
    "'a-b'",
    "', '",
    "'%s'",
    "1",
    "0",
    "-1",
    "2.5",
    "true",
    "none",
    "[]",
    "['a', 'b']",
    "{'a': 1}",
    "(1, 2)",
    "range(4)",
]
FILTERS = """trim upper lower title capitalize length first last list join join(',_') tojson tojson(indent=2) string int
tojson(sort_keys=true) tojson(ensure_ascii=true) tojson(separators=(',',':')) float abs round round(1,'floor') sum
default('D') default('D',true) reverse|list sort|list sort(reverse=true)|list sort(case_sensitive=true)|list
unique|list dictsort dictsort(by='value') replace('o','0') replace('','-') indent(2) indent('>',true,true)
selectattr('role')|list selectattr('role','equalto','user')|list rejectattr('content','none')|list map('upper')|list
map(attribute='role')|list map(attribute='n',default=5)|join map(attribute='calls.0.f.name')|list select('string')|list
reject('number')|list select('in',['a',1])|list max min max(attribute='n') sum(attribute='n') sum(start=1) safe escape
items|list center(12) format('z') trim('H_') int(5) float(1.5) count wrong""".replace("_", " ").split()
METHODS = """strip() lstrip() rstrip('_') split() split('o',1) rsplit('_',1) splitlines() startswith('H') find('o')
endswith(('_','x')) count('o') upper() title() replace('o','00') join(['a','b']) isdigit() zfill(9) center(40,'*')
removeprefix('__H') partition('o') rpartition('o') items()|list keys()|list values()|list get('b') get('zz',3)
index('a') role x b A wrong""".replace("_", " ").split()
TESTS = """defined undefined none string number mapping iterable sequence true boolean integer float odd divisibleby(2)
in(l) eq(1) lower wrong""".split()
OPERATORS = "+ - * / // % ~ ** == != < > <= >= in and or".split()
ITEMS = ("0", "-1", "1:", "::-1", ":-2", "'role'", "n")
EACH = (
    "{{ loop.index }}",
    "{{ loop.last }}",
    "{{ x }}",
    "{% if loop.first %}{% continue %}{% endif %}",
    "{{ loop.cycle('a', 'b') }}",
    "{% if loop.index == 2 %}{% break %}{% endif %}",
    "{{ loop.nextitem is defined }}",
    "{{ loop.changed(x) }}",
)
# $e an expression, $b a block, $w white space control; behind | what stands for $x
STATEMENTS = """{{$w $e $w}}
{%$w if $e %}$b{% elif $e %}$b{% else %}$b{% endif $w%}
{% for x in $x %}$b$i$b{% else %}$b{% endfor %} | ms;l;d;s;nothing;range(3);nl;ms if x;l if x != 'a'
{% set $x = $e %}{{ q }} | q;n;ns.x;p, q
{% set q | trim %}$b{% endset %}{{ q }}
{% macro m(a, b=2, c=a) %}$b{{ a }}{{ c }}{% endmacro %}{{ m($x) }} | 1;s, b=3;a=1;;1, 2, 3, 4
{% macro w(x) %}[{{ caller() }}]{% endmacro %}{% call w(1) %}$b{% endcall %}
{% with x = $e %}$b{{ x }}{% endwith %}
{% filter upper %}$b{% endfilter %}
{% generation %}$b{% endgeneration %}
text
""".splitlines()


def random_expression(rng, depth: int = 0) -> str:
    "An expression of values, filters, tests, methods and operators"
    if depth > 2 or rng.random() < 0.3:
        return rng.choice(ATOMS)

    def one():
        return random_expression(rng, depth + 1)

    kind = rng.randrange(8)
    if kind == 0:
        return f"{rng.choice(ATOMS)}|{rng.choice(FILTERS)}"
    if kind == 1:
        return f"({one()})|{rng.choice(FILTERS)}"
    if kind == 2:
        return f"({one()}).{rng.choice(METHODS)}"
    if kind == 3:
        return f"({one()}) {rng.choice(OPERATORS)} ({one()})"
    if kind == 4:
        return f"({one()}) is {rng.choice(TESTS)}"
    if kind == 5:
        return f"({one()} if {one()} else {one()})"
    if kind == 6:
        return f"{rng.choice(list(VALUES))}[{rng.choice(ITEMS)}]"
    return f"not ({one()})"


def random_block(rng, depth: int = 0) -> str:
    "A few statements"
    if depth > 2:
        return "x"
    return "".join(random_statement(rng, depth + 1) for _ in range(rng.randrange(3)))


def random_statement(rng, depth: int = 0) -> str:
    "One statement, with others inside"
    pattern, _, choices = rng.choice(STATEMENTS).partition(" | ")
    out = pattern.replace("$x", rng.choice(choices.split(";")))
    for sign, make in (
        ("$w", lambda: rng.choice("- ")),
        ("$e", lambda: random_expression(rng)),
        ("$i", lambda: rng.choice(EACH)),
        ("$b", lambda: random_block(rng, depth)),
    ):
        while sign in out:
            out = out.replace(sign, make(), 1)
    return out + rng.choice(("", "\n", "  \n  "))


# ---- hostile templates

DOUBLE = """{% set ns = namespace(a=['x'], b=['x'], s='x', l=[]) %}{% for i in range(60) %}
    {%- set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}
    {%- set long = 'ab' * 500000 %}{% set r = range(99999) | list %}"""
FRAMES = """{{ $ }}
{% for i in range(99999) %}{% set y = $ %}{% endfor %}
{% for i in range(99999) %}{% set ns.l = [ns.l, $] %}{% endfor %}
{% macro f(x) %}{{ $ }}{{ x(x) }}{{ x(x) }}{% endmacro %}{{ f(f) }}
{% for i in range(99999) %}{{ $ }}{% endfor %}
{% for i in range(99999) %}{% for j in range(99999) if ($) == 7 %}{% endfor %}{% endfor %}
{% for x in [1] recursive %}{{ $ }}{{ loop([x, x]) }}{% endfor %}
{% for i in range(99999) %}{% set y %}{{ $ }}{{ $ }}{% endset %}{% set ns.s = y %}{% endfor %}
{% for i in range(99999) %}{% set ns.s = $ %}{% endfor %}""".splitlines()
_expressions = (DATA / "hostile_expressions.txt").read_text(encoding="utf-8").splitlines()
HOSTILE = [DOUBLE + frame.replace("$", e) for e in _expressions for frame in FRAMES]
# for the parser
HOSTILE += [
    before * n + middle + behind * n
    for n, before, middle, behind in (
        (30000, "(", "1", ")"),
        (30000, "{{ [", "", "]"),
        (15000, "{{ not ", "1", ""),
        (30000, "{{ 1", "", "+1"),
        (30000, "{{ a", "", ".b"),
        (12000, "{{ a", "", "|trim"),
        (5000, "{% if 1 %}", "", "{% endif %}"),
        (3000, "{% for a in b %}", "", "{% endfor %}"),
        (5000, "{% set x %}", "", ""),
        (4000, "{% macro f() %}", "", ""),
        (60000, "", "{{ ", "9"),
        (60000, "", "{{ 1e", "9"),
        (13000, "{{a}}", "{{ a.b }}", ""),
        (30000, "", "{{ [", "a,"),
        (32000, "{#", "", ""),
        (15000, "{%  ", "", ""),
        (60000, "", "{%", " "),
        (70000, "x", "", ""),
        (1, "{{", "", ""),
        (1, "{% include 'x' %}", "", ""),
        (1, "{% import 'x' as y %}", "", ""),
        (1, "{% extends 'x' %}", "", ""),
        (1, "{% block x %}{% endblock %}", "", ""),
        (1, "{% generation %}", "", ""),
        (1, "{{ 'a' * 10**9 * 10**9 }}", "", ""),
    )
]
