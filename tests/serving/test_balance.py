"""Who takes a new client."""

import multiprocessing

from serving.balance import Balance


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
    balance = Balance(2)
    balance.tell(0, 1)
    worker = multiprocessing.get_context("fork").Process(target=balance.tell, args=(1, 0))
    worker.start()
    worker.join()
    assert balance.has_more(0)
