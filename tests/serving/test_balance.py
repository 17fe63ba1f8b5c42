"""Who takes a new client."""

import os
import subprocess
import sys
from pathlib import Path

from serving.balance import Balance

CONTAINER = Path(__file__).resolve().parents[2] / "container"


def test_who_has_more_leaves_it_to_those_who_take_clients():
    balance = Balance(3)
    balance.tell(0, 5)
    assert not balance.has_more(0)  # the others are loading
    balance.tell(1, 5)
    assert not balance.has_more(0)
    balance.tell(1, 4)
    assert balance.has_more(0)
    assert not balance.has_more(1)
    balance.close(1)
    assert not balance.has_more(0)


def test_the_workers_share_what_they_tell():
    """In a process of its own: one with threads must not fork."""
    program = """
import os
from serving.balance import Balance
balance = Balance(2)
balance.tell(0, 1)
if not os.fork():
    balance.tell(1, 0)
    os._exit(0)
os.wait()
print(balance.has_more(0))
"""
    environment = {**os.environ, "PYTHONPATH": str(CONTAINER)}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert ended.stdout == "True\n", ended.stderr
