"""The batch queue by itself, with plain functions as the model."""

import threading
import time

import numpy as np
import pytest

from serving.batching import Batcher


class RecordingModel:
    """Doubles, and remembers its batches. It starts when told to, so that inputs can gather."""

    def __init__(self, double=lambda inputs: [2 * value for value in inputs]):
        self.batches = []
        self.double = double

    def __call__(self, inputs, is_wanted):
        self.batches.append(inputs)
        return self.double(inputs)


def run(model, inputs, max_batch=4, **options):
    """Submit all inputs, then start the thread; the futures in order, and the depths that were told."""
    depths = []
    batcher = Batcher(
        model, max_batch=max_batch, queue_changed=depths.append, waited=lambda seconds: None, **options
    )
    futures = [batcher.submit(value) for value in inputs]
    threading.Thread(target=batcher.run, daemon=True).start()
    return futures, depths


def results(futures):
    return [future.result(timeout=5) for future in futures]


def test_what_waits_goes_together_up_to_the_limit_and_in_order():
    model = RecordingModel()
    futures, depths = run(model, [1, 2, 3, 4, 5, 6])
    assert results(futures) == [2, 4, 6, 8, 10, 12]
    assert model.batches == [[1, 2, 3, 4], [5, 6]]
    assert depths == [1, 2, 3, 4, 5, 6, 2, 0]


def test_only_inputs_of_one_shape_share_a_batch_and_the_oldest_goes_first():
    small, large = np.ones((2, 2)), np.ones((3, 3))
    model = RecordingModel()
    futures, _ = run(model, [small, large, small, large])
    assert [result.shape for result in results(futures)] == [(2, 2), (3, 3), (2, 2), (3, 3)]
    assert [[value.shape for value in batch] for batch in model.batches] == [[(2, 2)] * 2, [(3, 3)] * 2]


def test_no_more_go_together_than_there_is_memory_for():
    model = RecordingModel()
    futures, _ = run(model, [1, 2, 3, 4, 5], most_of=lambda value: 2.9 if value < 4 else 1.0)
    assert results(futures) == [2, 4, 6, 8, 10]
    assert model.batches == [[1, 2], [3, 4], [5]]
    with pytest.raises(MemoryError):
        run(model, [1], most_of=lambda value: 0.9)


def test_threads_predict_together_only_what_there_is_memory_for():
    """Two of the small, one of the large; a large one that is alone is not refused for the number of threads."""
    go_on, lock, now, most = threading.Event(), threading.Lock(), [0.0], []

    def use(inputs, is_wanted):
        with lock:
            now[0] += inputs[0]
            most.append(now[0])
        go_on.wait(0.2)
        with lock:
            now[0] -= inputs[0]
        return inputs

    batcher = Batcher(
        use, max_batch=1, queue_changed=lambda depth: None, waited=lambda s: None, most_of=lambda v: 1 / v
    )
    futures = [batcher.submit(value) for value in (0.5, 0.5, 0.5, 1.0, 0.25, 0.25)]
    for _ in range(4):
        threading.Thread(target=batcher.run, daemon=True).start()
    assert results(futures) == [0.5, 0.5, 0.5, 1.0, 0.25, 0.25]
    assert max(most) == 1


def test_several_threads_share_the_queue_and_the_longest_prediction_is_known():
    begun, go_on = threading.Semaphore(0), threading.Event()

    def wait(inputs, is_wanted):
        begun.release()
        go_on.wait(5)
        return inputs

    batcher = Batcher(wait, max_batch=1, queue_changed=lambda depth: None, waited=lambda seconds: None)
    for _ in range(2):
        threading.Thread(target=batcher.run, daemon=True).start()
    futures = [batcher.submit(1)]
    assert begun.acquire(timeout=5)
    time.sleep(0.2)
    futures.append(batcher.submit(2))
    assert begun.acquire(timeout=5)  # both are under way at the same time
    assert 0.2 <= batcher.running_seconds < 5
    go_on.set()
    assert results(futures) == [1, 2]
    time.sleep(0.2)
    assert batcher.running_seconds == 0


def test_a_poisoned_input_fails_alone():
    def double(inputs):
        if 13 in inputs:
            raise KeyError("poison")
        return [2 * value for value in inputs]

    futures, _ = run(RecordingModel(double), [1, 2, 13, 4])
    with pytest.raises(KeyError, match="poison"):
        futures.pop(2).result(timeout=5)
    assert results(futures) == [2, 4, 8]


def test_a_wrong_number_of_outputs_names_both():
    futures, _ = run(RecordingModel(lambda inputs: [*inputs, 0]), [1])
    with pytest.raises(RuntimeError, match="2 outputs for 1 inputs"):
        results(futures)


def test_a_cancelled_input_is_dropped():
    model = RecordingModel()
    batcher = Batcher(model, max_batch=4, queue_changed=lambda depth: None, waited=lambda seconds: None)
    gone, stays = batcher.submit(1), batcher.submit(2)
    gone.cancel()
    threading.Thread(target=batcher.run, daemon=True).start()
    assert stays.result(timeout=5) == 4
    assert model.batches == [[2]]


def test_the_model_hears_when_nobody_waits_for_any_of_a_batch():
    heard, go_on = [], threading.Semaphore(0)

    def model(inputs, is_wanted):
        for _ in range(3):
            assert go_on.acquire(timeout=5)
            heard.append(is_wanted())
        raise RuntimeError("given up")

    batcher = Batcher(model, max_batch=2, queue_changed=lambda depth: None, waited=lambda seconds: None)
    outputs = [batcher.submit(1), batcher.submit(2)]
    threading.Thread(target=batcher.run, daemon=True).start()
    for given_up in (*outputs, None):
        go_on.release()
        while len(heard) < (1 if given_up is outputs[0] else 2 if given_up else 3):
            time.sleep(0.001)
        if given_up:
            given_up.give_up()
    assert heard == [True, True, False]


def test_what_the_model_calls_alike_goes_together():
    model = RecordingModel()
    futures, _ = run(model, [1, 2, 3, 4], group_of=lambda value: value % 2)
    assert results(futures) == [2, 4, 6, 8]
    assert model.batches == [[1, 3], [2, 4]]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
    ],
    ids=["host", "CUDA", "torch"],
)
def test_a_batch_that_bursts_the_memory_lowers_the_ceiling_and_fails_nobody(error, caplog):
    gathered = threading.Event()

    def double(inputs):
        gathered.wait(5)
        if len(inputs) > 3:
            raise error
        return [2 * value for value in inputs]

    model = RecordingModel(double)
    batcher = Batcher(model, max_batch=8, queue_changed=lambda depth: None, waited=lambda seconds: None)
    threading.Thread(target=batcher.run, daemon=True).start()
    for _ in range(2):
        model.batches.clear()
        gathered.clear()
        blocker = batcher.submit(100)
        while batcher.running_seconds == 0:
            time.sleep(0.001)
        futures = [batcher.submit(value) for value in range(8)]
        gathered.set()
        assert results([blocker, *futures]) == [200, 0, 2, 4, 6, 8, 10, 12, 14]
    assert [len(batch) for batch in model.batches] == [1, 2, 2, 2, 2]
    assert "at most 2 from now on" in caplog.text


def test_it_tells_how_long_each_input_waited():
    waits = []
    batcher = Batcher(RecordingModel(), max_batch=4, queue_changed=lambda depth: None, waited=waits.append)
    first = batcher.submit(1)
    time.sleep(0.3)
    last = batcher.submit(2)
    threading.Thread(target=batcher.run, daemon=True).start()
    assert results([first, last]) == [2, 4]
    assert 0.25 < waits[0] - waits[1] < 0.6
