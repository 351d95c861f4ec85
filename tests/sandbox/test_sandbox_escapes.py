"""What hostile programs do, in namespaces and in what takes their place without them."""

import dataclasses
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sandbox import sandbox as sandbox_module
from sandbox.isolation.confinement import LANDLOCK, NAMESPACES, SECCOMP
from sandbox.isolation.syscalls import number
from sandbox.sandbox import Limits, Outcome, Program, Sandbox, Trust

SMALL = Limits(seconds=60.0, cpu_seconds=1, memory_mb=400, threads=8, file_mb=1, folder_mb=2, output_kb=100)
TESTS = ["assert answer(20) == 'a9f3c1'", "assert answer(21) == 'b8e2d0'"]


@pytest.fixture(scope="module", params=[(NAMESPACES, SECCOMP), (LANDLOCK, SECCOMP)], ids=["namespaces", "landlock"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox_module, "LAYERS", request.param)
        with Sandbox(SMALL, "required", workers=2, trust="tests") as made:
            if made.layers != list(request.param):
                pytest.skip(f"not to be had here: {made.missing}")
            yield made


def run(sandbox: Sandbox, code: str, tests: Sequence[str] = (), **more: Any) -> Outcome:
    return next(sandbox.run([Program(code, tests, **more)]))


FAKES = {
    "exit": "import sys\nsys.exit(0)",
    "exit in the call": "import sys\ndef answer(x): sys.exit(0)",
    "os._exit": "import os\nos._exit(0)",
    "os._exit in the call": "import os\ndef answer(x): os._exit(0)",
    "exit at exit": "import atexit, os\natexit.register(os._exit, 0)\ndef answer(x): raise SystemExit(0)",
    "kills itself": "import os\ndef answer(x): os.kill(os.getpid(), 9)",
    "equal to all": "class All:\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n"
    "    __hash__ = None\ndef answer(x): return All()",
    "text equal to all": "class All(str):\n    def __eq__(self, other): return True\n    __hash__ = str.__hash__\n"
    "def answer(x): return All('x')",
    "equality from the right": "class All:\n    def __eq__(self, other): return self\n"
    "    def __bool__(self): return True\ndef answer(x): return All()",
    "patched builtins": "import builtins\nclass No(BaseException): pass\nbuiltins.AssertionError = No\n"
    "for name in ('isinstance', 'type', 'str', 'all', 'any', 'compile', 'exec', 'len'):\n"
    "    setattr(builtins, name, lambda *given, **named: True)\ndef answer(x): return True",
    "patched checker": "import sys, types\n"
    "for name in list(sys.modules):\n    if 'sandbox' in name:\n        module = sys.modules[name]\n"
    "        for key in dir(module):\n            if isinstance(getattr(module, key), types.FunctionType):\n"
    "                setattr(module, key, lambda *given, **named: {'failures': ['', '']})\ndef answer(x): return 1",
    "traced": "import sys\nsys.settrace(lambda *given: None)\nsys.setprofile(lambda *given: None)\n"
    "sys.excepthook = lambda *given: None\nsys.displayhook = None\ndef answer(x): return 1",
    "frames": "import sys\ndef answer(x):\n    frame, texts = sys._getframe(), []\n    while frame:\n"
    "        texts += [value for value in [*frame.f_locals.values(), *frame.f_globals.values()]"
    " if isinstance(value, str)]\n        frame = frame.f_back\n    print(texts)\n"
    "    return next((text for text in texts if len(text) == 6 and text.isalnum()), None)",
    "all of memory": "import gc\ndef answer(x):\n    seen, left, texts = set(), gc.get_objects(), []\n"
    "    while left:\n        one = left.pop()\n        if id(one) not in seen:\n            seen.add(id(one))\n"
    "            left += gc.get_referents(one)\n            if isinstance(one, (str, bytes)): texts.append(repr(one))\n"
    "    print([text for text in texts if '1c3f9a'[::-1] in text or '0d2e8b'[::-1] in text])",
    "own memory as a file": "def answer(x): return open('/proc/self/mem', 'rb').read(10)",
    "memory of the checker": "import os\ndef answer(x): return open(f'/proc/{os.getppid()}/mem', 'rb').read(10)",
    "prints a verdict": "import os, json\nline = json.dumps({'failures': ['', ''], 'error': '', 'undecided': ''})\n"
    "frame = len(line).to_bytes(4, 'big') + line.encode()\nfor number in range(64):\n    try:\n"
    "        os.write(number, frame)\n    except OSError:\n        pass\nprint(line)\ndef answer(x): return 1",
    "answers ahead": "import os\nframe = b'[\"value\",true]'\nframe = len(frame).to_bytes(4, 'big') + frame\n"
    "os.write(4, frame * 100)\ndef answer(x): return 1",
    "garbage": "import os\nos.write(4, b'\\0\\0\\0\\4nope')\ndef answer(x): return 1",
    "endless frame": "import os\nos.write(4, b'\\xff\\xff\\xff\\xff')\nwhile True:\n    os.write(4, b'x' * 65536)",
    "nested frame": "import os\nline = b'[' * 10**6\nos.write(4, len(line).to_bytes(4, 'big') + line)",
    "wrong references": 'import os\nline = b\'["value",["builtin","eval"]]\'\n'
    "os.write(4, len(line).to_bytes(4, 'big') + line)\ndef answer(x): return 1",
    "changes others' arguments": 'import os\nline = b\'["value",null,[[0,["list",1]],[99,["dict"]]]]\'\n'
    "frame = len(line).to_bytes(4, 'big') + line\ndef answer(x): os.write(4, frame)",
    "closes its pipes": "import os\nos.close(4)\nos.close(3)\nimport time\ntime.sleep(100)",
    "answers in a thread": "import threading, os\nline = b'[\"value\",true]'\n"
    "def flood():\n    while True: os.write(4, len(line).to_bytes(4, 'big') + line)\n"
    "threading.Thread(target=flood, daemon=True).start()\nimport time\ndef answer(x): time.sleep(100)",
    "handler of signals": "import signal, os\nsignal.signal(signal.SIGTERM, lambda *given: os._exit(0))\n"
    "def answer(x): os.kill(os.getpid(), signal.SIGTERM)",
}


LIKE_HONEST = {"equal to all", "text equal to all", "equality from the right"}
"""Objects that say they are equal to plain values, as those of honest programs may."""


@pytest.mark.parametrize("name", FAKES)
def test_no_program_fakes_a_pass(sandbox: Sandbox, name: str) -> None:
    outcome = run(sandbox, FAKES[name], TESTS, entry_point="answer")
    assert not outcome.passed
    if name in LIKE_HONEST:
        assert outcome.undecided == "passes only in one process with its tests"
    else:
        assert not outcome.undecided and len(outcome.failures) == 2 and all(outcome.failures)
    assert "a9f3c1" not in outcome.output and "b8e2d0" not in outcome.output


def test_a_fake_does_not_help_tests_that_calculate(sandbox: Sandbox) -> None:
    code = """
class Near:
    def __sub__(self, other):
        print("seen", other)
        return 0
    __rsub__ = __lt__ = __gt__ = __float__ = __abs__ = __sub__
def f(x): return Near()
"""
    outcome = run(
        sandbox, code, ["assert abs(f(1) - 3.25) < 1e-6", "assert math.isclose(f(1), 3.25)", "assert f(1) < 9"]
    )
    assert not outcome.passed and "seen" not in outcome.output


@pytest.mark.parametrize(
    "test",
    [
        "assert all(map(lambda pair: f(pair[0]) == pair[1], [(1, 2), (2, 3)]))",
        "assert not list(filter(lambda pair: f(pair[0]) != pair[1], [(1, 2), (2, 3)]))",
        "for got, wanted in zip(map(f, [1, 2]), [5, 6]):\n    assert got == wanted",
    ],
)
def test_a_program_does_not_end_the_loops_of_its_tests(sandbox: Sandbox, test: str) -> None:
    outcome = run(sandbox, "def f(x): raise StopIteration('enough')", [test], entry_point="f")
    assert list(outcome.failures) == ["StopIteration: enough"]


@pytest.mark.slow
@pytest.mark.parametrize("depth", [100, 2100])  # more than 2,048 have no path that the kernel takes
def test_folders_however_deep_cost_nobody_a_verdict(sandbox: Sandbox, depth: int) -> None:
    deep = f"import os\nfor _ in range({depth}):\n    os.mkdir('d')\n    os.chdir('d')\nos.mkdir('locked', 0)"
    right = Program("def f(): return 1", ["assert f() == 1"])
    # The layers of `sandbox`, but time for thousands of folders on a slow disk.
    with Sandbox(dataclasses.replace(SMALL, cpu_seconds=60), "required", workers=2, trust="tests") as made:
        assert made.layers == sandbox.layers
        outcomes = list(made.run([Program(deep), right] * 4))
        assert [(outcome.undecided, outcome.passed) for outcome in outcomes] == [("", True)] * 8
        assert run(made, "import os\nprint(os.listdir('.'))").output == "[]\n"


def test_tests_that_swallow_everything_do_not_pass_a_dead_program(sandbox: Sandbox) -> None:
    outcome = run(sandbox, "import os\ndef f(): os._exit(0)", ["try:\n    f()\nexcept:\n    pass", "assert True"])
    assert list(outcome.failures) == ["ended by itself (status 0)"] * 2


BOMBS = {
    "endless loop": ("while True: pass", "took too much CPU time"),
    "endless loop that ignores signals": (
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        "took too much CPU time",
    ),
    "endless call": ("def f():\n    while True: pass", "took too much CPU time"),
    "endless result": ("def f():\n    while True: yield 1", "ime"),
    "memory": ("x = ' ' * 10**10", "MemoryError"),
    "memory by and by": ("x = []\nwhile True: x.append(bytearray(10**7))", "MemoryError"),
    "large result": (
        "def f(): return 'x' * 3 * 10**7",
        "gave a result that cannot be read (a message of 3000",
    ),
    "output": ("while True: print('x' * 1000)", "printed too much"),
    "output of errors": ("import os\nwhile True: os.write(2, b'x' * 1000)", "printed too much"),
    "recursion": ("def f(): return f()", "RecursionError: maximum recursion depth exceeded"),
    "recursion of C": (
        "import sys\nsys.setrecursionlimit(10**9)\nx = y = None\nfor _ in range(3 * 10**5): x, y = [x], [y]\nx == y",
        "was killed by SIGSEGV",
    ),
    "deep result": ("def f():\n    x = None\n    for _ in range(10**5): x = [x]\n    return x", "AssertionError"),
    "crash": ("import ctypes\nctypes.string_at(0)", "was killed by SIGSEGV"),
    "fork": ("import os\nwhile True: os.fork()", "PermissionError"),
    "fork by another name": ("import ctypes\nlibc = ctypes.CDLL(None)\nassert libc.fork() > 0", "AssertionError"),
    "vfork": ("import ctypes\nlibc = ctypes.CDLL(None)\nassert libc.syscall(58) > 0", "AssertionError"),
    "processes": ("import multiprocessing\nmultiprocessing.Process(target=print).start()", "PermissionError"),
    "execution": ("import os\nos.execv('/bin/sh', ['sh'])", "PermissionError"),
    "commands": ("import os\nassert os.system('true') == 0", "AssertionError"),
    "threads": (
        "import threading, time\nfor _ in range(10**5): threading.Thread(target=time.sleep, args=(99,)).start()",
        "RuntimeError: can't start new thread",
    ),
    "large file": ("f = open('f', 'wb')\nwhile True: f.write(b'x' * 10**5)", "OSError: [Errno 27] File too large"),
    "a new session": ("import os\nos.setsid()", "PermissionError"),
    "kills its parent": ("import os\nos.kill(os.getppid(), 9)", "PermissionError"),
    "kills all": ("import os\nos.kill(-1, 9)", "PermissionError"),
    "kills its group": ("import os\nos.killpg(0, 9)", "PermissionError"),
    "signals when data comes": (
        "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())",
        "PermissionError",
    ),
    "limits of its parent": (
        "import resource, os\nresource.prlimit(os.getppid() or 1, resource.RLIMIT_CPU, (0, 0))",
        "PermissionError",
    ),
    "higher limits": ("import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "ValueError: not allowed"),
    "memory without limit": ("import os\nos.memfd_create('x')", "PermissionError"),
    "a socket": ("import socket\nsocket.socket()", "PermissionError"),
    "a socket to no one": ("import socket\nsocket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)", "PermissionError"),
    "a name server": ("import socket\nsocket.getaddrinfo('example.org', 80)", "gaierror"),
    "privileges": ("import os\nos.setuid(0)\nos.setgid(0)\nopen('/etc/shadow').read()", "Error: [Errno"),
    "a device": ("import os\nos.mknod('d', 0o60666, os.makedev(254, 0))\nopen('d').read(1)", "PermissionError"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_no_program_goes_beyond_its_limits(sandbox: Sandbox, name: str) -> None:
    code, error = BOMBS[name]
    outcome = run(sandbox, code, ["assert list(f()) == [1]"])
    assert not outcome.undecided and outcome.failures and all(error in failure for failure in outcome.failures)
    assert len(outcome.output) <= 8192


def test_system_calls_are_refused_however_they_are_made(sandbox: Sandbox) -> None:
    code = """
import ctypes, platform
libc = ctypes.CDLL(None, use_errno=True)
def refused(numbers):
    found = []
    for number in numbers:
        ctypes.set_errno(0)
        if libc.syscall(number, 0, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() not in (1, 38):
            found.append(number)
    return found
"""
    names = "ptrace process_vm_readv process_vm_writev mount umount2 unshare setns bpf perf_event_open socket connect "
    names += "keyctl shmget semget msgget mq_open userfaultfd io_uring_setup memfd_create pidfd_open execve chroot"
    test = f"assert refused({[number(name) for name in names.split()]}) == []"
    assert run(sandbox, code, [test]).passed


def test_the_folder_is_limited_where_it_is_the_sandboxs_own(sandbox: Sandbox) -> None:
    code = "for number in range(100): open(str(number), 'wb').write(b'x' * 10**5)"
    outcome = run(sandbox, code)
    assert outcome.error == ("OSError: [Errno 28] No space left on device" if NAMESPACES in sandbox.layers else "")
    assert run(sandbox, "import os\nprint(os.listdir('.'))").output == "[]\n"


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    path = tmp_path / "precious"
    path.write_text("content: 7c1e\n")
    path.chmod(0o644)
    os.utime(path, (1, 1))
    return path


TOUCHES = [
    "print(open(PATH).read())",
    "import os\nprint(os.read(os.open(PATH, os.O_RDONLY), 100))",
    "open(PATH, 'w').write('x')",
    "open(PATH, 'a').write('x')",
    "open(PATH + '2', 'w').write('x')",
    "import os\nos.unlink(PATH)",
    "import os\nos.truncate(PATH, 0)",
    "import os\nos.rename(PATH, PATH + '2')",
    "import os\nos.rename(PATH, 'mine')",
    "import os\nos.link(PATH, 'mine')\nprint(open('mine').read())",
    "import os\nos.symlink(PATH, 'mine')\nprint(open('mine').read())",
    "import os\nos.symlink(PATH, 'mine')\nopen('mine', 'w').write('x')",
    "import os\nos.chmod(PATH, 0o777)",
    "import os\nos.chown(PATH, 1, 1)",
    "import os\nos.utime(PATH)",
    "import os\nos.mkdir(PATH + '2')",
    "import os, shutil\nshutil.rmtree(os.path.dirname(PATH))",
    "import os\nprint(os.listdir(os.path.dirname(PATH)))",
    "import os\nos.chdir(os.path.dirname(PATH))\nprint(open('precious').read())",
    "import os\nos.chroot(os.path.dirname(PATH))\nprint(open('/precious').read())",
    "import mmap\nprint(mmap.mmap(open(PATH, 'r+').fileno(), 0).read())",
    "print(open('/etc/passwd').read())\nraise OSError('content: 7c1e')",
    "import os\nopen(os.__file__, 'a').write('x')",
    "import os\nos.unlink(os.__file__)",
    "open('/x', 'w')",
    "open('/dev/shm/x', 'w')",
    "print(open('/proc/self/environ').read())",
]


@pytest.mark.parametrize("code", TOUCHES)
def test_files_outside_are_neither_read_nor_changed(sandbox: Sandbox, precious: Path, code: str) -> None:
    before = precious.stat()
    outcome = run(sandbox, f"PATH = {str(precious)!r}\n{code}")
    assert "Error" in outcome.error and "NameError" not in outcome.error
    assert "7c1e" not in outcome.output and "root:" not in outcome.output and "precious" not in outcome.output
    after = precious.stat()
    assert precious.read_text() == "content: 7c1e\n"
    assert (after.st_mode, after.st_uid, after.st_mtime_ns, after.st_nlink) == (
        before.st_mode, before.st_uid, before.st_mtime_ns, before.st_nlink,
    )  # fmt: skip
    assert [path.name for path in precious.parent.iterdir()] == ["precious"]


def test_no_one_outside_hears_of_a_program(sandbox: Sandbox, tmp_path: Path) -> None:
    heard: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(str(tmp_path / "socket"))
        local.listen()
        for each in (server, local):
            threading.Thread(target=lambda each=each: heard.append(bool(_accepted(each))), daemon=True).start()
        code = f"""
import socket
addresses = (socket.AF_INET, ("127.0.0.1", {server.getsockname()[1]})), (socket.AF_UNIX, {local.getsockname()!r})
for family, address in addresses:
    try:
        socket.socket(family).connect(address)
    except OSError as error:
        print(type(error).__name__)
"""
        assert run(sandbox, code).output == "PermissionError\n" * 2
        time.sleep(0.1)
        assert heard == []
        for each in (server, local):
            each.shutdown(socket.SHUT_RDWR)


def _accepted(server: socket.socket) -> bool:
    try:
        return server.accept() is not None
    except OSError:
        return False


def test_threads_do_not_outlive_their_program(sandbox: Sandbox) -> None:
    code = """
import threading, time
def go_on():
    while True:
        open("alive", "a").write("x")
        time.sleep(0.01)
for _ in range(3): threading.Thread(target=go_on).start()
def f(): return 1
"""
    outcomes = list(sandbox.run([Program(code, ["assert f() == 1"])] * 4))
    assert all(outcome.passed for outcome in outcomes)
    time.sleep(0.1)
    looked = list(sandbox.run([Program("import os, threading\nprint(os.listdir('.'), threading.active_count())")] * 4))
    assert {outcome.output for outcome in looked} == {"[] 1\n"}


@pytest.mark.slow
@pytest.mark.parametrize("trust", ["program", "tests"])
def test_the_clock_on_the_wall_ends_programs_and_tests_that_wait(trust: Trust) -> None:
    with Sandbox(Limits(seconds=2.0, cpu_seconds=30), workers=2, trust=trust) as sandbox:
        asleep = "import time\ndef f(): time.sleep(100)\ndef g(): return 1"
        programs = [
            Program("import time\ntime.sleep(100)", ["assert True"]),
            Program(asleep, ["assert g() == 1", "f()", "assert g() == 1"]),
            Program("def g(): return 1", ["import time\ntime.sleep(100 * g())"]),
            Program("import itertools\nf = itertools.count", ["for x in f(): pass"]),
            Program("def f(): return 1", ["assert f() == 1"]),
        ]
        outcomes = list(sandbox.run(programs))
    assert [outcome.error for outcome in outcomes] == ["timed out"] * 4 + [""]
    assert list(outcomes[1].failures) == ["", "timed out", "timed out"]
    assert outcomes[4].passed


def test_descendants_that_leave_their_group_are_found_where_nothing_keeps_them_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sandbox_module, "LAYERS", ())
    code = f"""
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
        time.sleep(100)
    os._exit(0)
while not os.path.exists({str(tmp_path / "pid")!r}): time.sleep(0.01)
"""
    with pytest.warns(RuntimeWarning), Sandbox(SMALL, workers=1) as sandbox:
        assert run(sandbox, code).passed
        assert run(sandbox, "pass").passed
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGCONT)
