"""BatchNorm keeps statistics of labelled and unlabelled batches apart; what is exported has the former."""

import torch

from espnet_ext.bilevel.statistics import SeparateStatistics


class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.before, self.norm = torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(self.before(x))


def test_each_kind_of_batch_moves_its_own_statistics():
    """Against two encoders that each saw one kind alone."""
    torch.manual_seed(1)
    encoder = Encoder()
    alone = [Encoder(), Encoder()]
    for each in alone:
        each.load_state_dict(encoder.state_dict())
    separate = SeparateStatistics(encoder)
    assert len(separate) == 1
    names = list(encoder.state_dict())
    for _ in range(5):
        labelled, unlabelled = torch.randn(8, 3), 4 * torch.randn(8, 3) + 40
        assert torch.equal(encoder(labelled), alone[0](labelled))
        with separate.inside():
            assert torch.equal(encoder(unlabelled), alone[1](unlabelled))
    assert list(encoder.state_dict()) == names
    for mine, reference in ((encoder.norm, alone[0].norm), (separate.seconds[0], alone[1].norm)):
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            assert torch.equal(getattr(mine, name), getattr(reference, name))
    assert (encoder.norm.running_mean - separate.seconds[0].running_mean).abs().max() > 1
    # In evaluation as well.
    for each in (encoder, *alone):
        each.eval()
    x = torch.randn(4, 3)
    assert torch.equal(encoder(x), alone[0](x))
    with separate.inside():
        assert torch.equal(encoder(x), alone[1](x))


def test_weights_are_shared_and_the_second_set_has_none():
    encoder = Encoder()
    separate = SeparateStatistics(encoder)
    assert list(separate.parameters()) == []
    with separate.inside():
        encoder(torch.randn(8, 3)).square().sum().backward()
    assert encoder.norm.weight.grad is not None


def test_an_error_inside_puts_the_first_set_back():
    encoder = Encoder()
    mean = encoder.norm.running_mean
    try:
        with SeparateStatistics(encoder).inside():
            assert encoder.norm.running_mean is not mean
            raise RuntimeError
    except RuntimeError:
        pass
    assert encoder.norm.running_mean is mean


def test_nothing_to_separate_without_batchnorm():
    assert len(SeparateStatistics(torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3)))) == 0


def test_the_second_set_begins_with_what_the_starting_model_has_seen():
    encoder = Encoder()
    for _ in range(3):
        encoder(torch.randn(8, 3) + 5)
    (second,) = SeparateStatistics(encoder).seconds
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(second, name), getattr(encoder.norm, name))
        assert getattr(second, name) is not getattr(encoder.norm, name)
