"Conversations, and templates in the manner of well-known model families: what chats are tried with"
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

FAMILIES = {p.stem: p.read_text(encoding="utf-8") for p in sorted((Path(__file__).parent/"data"/"chat_templates").glob("*.jinja"))}
SPECIAL = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")

_properties = dict(city=dict(type="string", enum=["Paris", "Rom"]), days=dict(type=["integer", "null"], default=3),
    more=dict(type="array", items=dict(type="string")))
_weather = dict(name="get_weather", description="Weather of <a> 'city' & \"more\" é",
    parameters=dict(type="object", properties=_properties, required=["city"]))
_nothing = dict(name="nothing", description="Does nothing", parameters=dict(type="object", properties={}))
TOOLS = [dict(type="function", function=_weather), dict(type="function", function=_nothing)]
_arguments = dict(city="Paris", days=2, nested=dict(b=[1, 2.5, None, True], a="ü"))
_call = dict(id="abc123def", type="function", function=dict(name="get_weather", arguments=_arguments))
_written = dict(id="abc123def", type="function", function=dict(name="get_weather", arguments='{"city": "Rom"}'))


def message(role, content=None, **more):
    "A message; without content if none is given"
    return dict(role=role, **more) | ({} if content is None else dict(content=content))


def text(words):
    "Content as a part"
    return dict(type="text", text=words)


_result = dict(name="get_weather", tool_call_id="abc123def")
CHATS = dict(
    one=[message("user", "Hi there")],
    system=[message("system", "Be  brief.\n"), message("user", " What's 1 < 2 & \"3\"?\n")],
    turns=[message("user", "a"), message("assistant", "b "), message("user", "c")],
    thoughts=[message("system", "S /no_think"), message("user", "a"), message("assistant", "<think>\nhm\n</think>\n\nb"),
        message("user", "c"), message("assistant", "<think>so</think>d")],
    reasoning=[message("user", "a"), message("assistant", "b", reasoning_content="because\n"), message("user", "c")],
    parts=[message("user", [text("look "), text("here")]), message("assistant", [text("ok")]), message("user", [dict(type="image"), text("x")])],
    tools=[message("user", "Weather?"), message("assistant", "", tool_calls=[_call]), message("tool", "22 C", **_result),
        message("assistant", "It's 22."), message("user", "thanks")],
    several=[message("system", "s"), message("user", "Weather?"), message("assistant", tool_calls=[_call, _call]),
        message("tool", json.dumps(dict(t=22)), **_result), message("tool", "x", **_result)],
    written=[message("user", "Weather?"), message("assistant", tool_calls=[_written]), message("tool", [text("22")], **_result)],
    developer=[message("developer", "D"), message("user", "U")],
    twice=[message("user", "u1"), message("user", "u2")],
    odd=[message("assistant", "first"), message("user", "é👍\u2028\n\n  x\n", name="Ann")],
)
SETTINGS = (dict(), dict(tools=TOOLS), dict(tools=TOOLS[:1], documents=[dict(doc_id=1, title="T", text="words")]), dict(tools=[]),
    dict(enable_thinking=False, date_string="26 Jul 2024"), dict(enable_thinking=True, reasoning_effort="high", controls=dict(citations=True)))


def published(folder) -> dict[str, str]:
    "The chat templates that llama.cpp carries for its tests, out of a source package on PyPI"
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(folder), "llama-cpp-python==0.3.36"], check=True)
    with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as tar:
        files = [m for m in tar if m.name.endswith(".jinja") and "/models/templates/" in m.name]
        return {Path(m.name).stem: io.TextIOWrapper(tar.extractfile(m), encoding="utf-8").read() for m in files}
