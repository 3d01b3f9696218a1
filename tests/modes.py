"""A network in one of its modes, for calls in one line: Paddle 2 returns nothing from ``eval()`` and ``train()``."""


def evaluating(network):
    network.eval()
    return network


def training(network):
    network.train()
    return network
