"""Signals are noted, and end a process with the shell's codes."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from ssfnas.runtime.interruption import BEFORE_THE_LOOP, Interrupted, Interruption

PROGRAM = """
import sys, time
from ssfnas.commandline import main
from ssfnas.env import EnvConfig
from ssfnas.runtime.interruption import Interruption

def run(config):
    with Interruption() as interruption:
        print("ready", flush=True)
        for step in range(6000):
            time.sleep(0.01)
            if interruption.signal is not None and "stubborn" not in sys.argv[0]:
                raise interruption.stop(f"state saved; go on with: --resume")
    return 0

sys.exit(main(EnvConfig, run, prog="ssfnas.tiny", description="", argv=[]))
"""


def start(tmp_path, name="tiny.py") -> subprocess.Popen:
    (tmp_path / name).write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / name)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_process_saves_and_ends_with_the_code_of_the_signal(tmp_path, number, code):
    process = start(tmp_path)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    answer, last = errors.splitlines()
    assert answer == f"{BEFORE_THE_LOOP}; Ctrl-C once more stops at once"
    assert last == "ssfnas.tiny: interrupted: state saved; go on with: --resume"


def test_a_second_sigint_ends_a_loop_that_does_not_look(tmp_path):
    process = start(tmp_path, "stubborn.py")
    process.send_signal(signal.SIGINT)
    # Said at once, by a loop that does not look.
    assert process.stderr.readline().startswith("stopping after")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped at once" in errors


def test_the_first_signal_is_kept_and_handlers_come_back():
    former = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption:
        assert interruption.signal is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.signal == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert interruption.signal == signal.SIGTERM
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == former


def test_the_answer_is_shown_where_it_can_be_and_else_written(capfd):
    shown = []
    for there in (True, False):
        with Interruption() as interruption:
            interruption.outlook = "going on"
            interruption.show = lambda text, there=there: shown.append(text) or there
            os.kill(os.getpid(), signal.SIGTERM)
            assert capfd.readouterr().err == ("" if there else f"{shown[-1]}\n")
            os.kill(os.getpid(), signal.SIGTERM)  # has been answered
    assert shown == ["going on; Ctrl-C once more stops at once"] * 2


def test_of_several_processes_the_first_answers(monkeypatch, capfd):
    monkeypatch.setenv("RANK", "1")
    with Interruption():
        os.kill(os.getpid(), signal.SIGTERM)
    assert capfd.readouterr().err == ""


def test_the_exception_carries_the_code():
    interruption = Interruption()
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        interruption.signal = number
        error = interruption.stop("saved")
        assert isinstance(error, Interrupted)
        assert (error.exit_code, str(error)) == (code, "saved")


def test_outside_the_main_thread_it_does_nothing():
    seen = []

    def enter():
        with Interruption() as interruption:
            seen.append(interruption.signal)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [None]
