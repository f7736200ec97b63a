"""mute_native_log: native output is gone, Python's stays."""

import subprocess
import sys

PROGRAM = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
print("before")
from pyterrier_inpars.demo import mute_native_log
mute_native_log()
libc.puts(b"native")
libc.fflush(None)
os.write(1, b"native")
os.write(2, b"native")
print("output")
print("error", file=sys.stderr)
mute_native_log()
print("again")
raise SystemError("traceback")
"""


def test_only_python_prints():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.stdout == "before\noutput\nagain\n"
    assert done.stderr.startswith("error\nTraceback") and "SystemError: traceback" in done.stderr
    assert "native" not in done.stdout + done.stderr.replace("native_log", "")


def test_a_stream_without_a_descriptor_stays():
    program = "\n".join(
        [
            "import io, os, sys",
            "from pyterrier_inpars.demo import mute_native_log",
            "sys.stdout = notebook = io.StringIO()",
            "mute_native_log()",
            "print('cell')",
            "os.write(1, b'native')",
            "assert sys.stdout is notebook and notebook.getvalue() == 'cell\\n'",
        ]
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_a_block_is_silenced_and_no_more():
    program = "\n".join(
        [
            "import os, sys",
            "from pyterrier_inpars._native_output import redirected, silenced",
            "print('before')",
            "with silenced():",
            "    os.write(1, b'native')",
            "    os.write(2, b'native')",
            "    print('in the block')",  # stays in Python's buffer until the block ends
            "print('after')",
            "with redirected({1: 2}):",
            "    os.write(1, b'progress\\n')",
            "    print('buffered')",
            "print('end')",
        ]
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("before\nafter\nend\n", "progress\nbuffered\n")
