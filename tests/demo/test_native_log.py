"""mute_native_log: native output is gone, Python's stays."""

import subprocess
import sys

PROGRAM = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
print("before")
from pyterrier_inpars.demo.native_log import mute_native_log
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
            "from pyterrier_inpars.demo.native_log import mute_native_log",
            "sys.stdout = notebook = io.StringIO()",
            "mute_native_log()",
            "print('cell')",
            "os.write(1, b'native')",
            "assert sys.stdout is notebook and notebook.getvalue() == 'cell\\n'",
        ]
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
