"""Generator and critic against each other, without a recogniser."""

import torch

from espnet_ext.gan.critic import Critic
from espnet_ext.gan.losses import adversarial_loss, critic_terms
from espnet_ext.gan.sequences import draw_mix, real_sequences


def test_a_free_table_finds_its_target():
    """G9: a table of distributions that only the critic teaches ends at the transcript."""
    torch.manual_seed(0)
    length = torch.tensor([6])
    real = real_sequences(torch.tensor([[4, 0, 2, 2, 1, 3]]), 5)
    table = torch.zeros(1, 6, 5, requires_grad=True)
    critic = Critic(5, 32, [2, 2], "layer", "leaky_relu")
    teach = torch.optim.Adam([table], lr=0.05, betas=(0.5, 0.98))
    learn = torch.optim.Adam(critic.parameters(), lr=0.003, betas=(0.5, 0.98))

    def score(sequences, lengths):
        return critic(sequences, lengths)[0]

    for step in range(400):
        fake = table.softmax(-1)
        terms = critic_terms(score, real, fake.detach(), length, draw_mix([step], "0"))
        learn.zero_grad()
        terms.loss(1.0, 10.0, 1).backward()
        learn.step()
        teach.zero_grad()
        adversarial_loss(score(fake, length), 1.0, 1).backward()
        teach.step()
        if step == 0:
            assert 0.5 * (fake - real).abs().sum(-1).mean() > 0.7
    assert 0.5 * (table.softmax(-1) - real).abs().sum(-1).mean() < 0.05
