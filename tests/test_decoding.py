"Writing with every registered model: rows of different lengths as if alone, and recorded steps as ordinary ones."
import brainlab
import pytest
import torch
from brainlab.decoding.engine import Engine, checks
from brainlab.decoding.generate import complete, generate
from brainlab.decoding.sampling import row_seeds

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11], [7]]


@pytest.mark.parametrize("form", ["eager", "rehearsal"])
@pytest.mark.parametrize("name", sorted(brainlab.models.names()))
def test_rows_say_what_they_say_alone(name, form):
    model = brainlab.build(name, preset="tiny", seed=1).double().eval()
    n = [model.config.context_length + 5, 3, 20, 20] # the first window slides, the second row leaves early
    said = complete(model, PROMPTS, n, temperature=1.2, repetition=1.1, seed=5, form=form)
    for p, k, o, seed in zip(PROMPTS, n, said, row_seeds(5, 4)):
        assert len(o.tokens) == k and o.tokens == complete(model, p, k, temperature=1.2, repetition=1.1, seed=seed).tokens


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name, check", checks("cuda", torch.float32))
def test_a_graph_says_what_ordinary_steps_say(name, check): check()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_says_what_a_cpu_says():
    model = brainlab.build("gpt", preset="tiny", seed=1).double().eval()
    want = [generate(model, PROMPTS, 20, **kw) for kw in (dict(temperature=0), dict(seed=3))] # the dice are the same everywhere
    model.to("cuda")
    assert [generate(model, PROMPTS, 20, **kw) for kw in (dict(temperature=0), dict(seed=3))] == want


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_early_exit_on_a_gpu_is_not_recorded():
    model = brainlab.build("braingpt", preset="tiny").eval().to("cuda")
    engine = Engine(model, exit_threshold=.9).start([[1, 2]], [0])
    for _ in range(6): engine.step()
    assert engine.recorded == 0 and engine.reason
