"""The sample's CCIP encoder: a small convolution net that tells characters apart whoever draws them.

Learnt as CCIP's encoder was, by a contrastive loss over pictures labelled with their character only; here (supervised
contrastive loss, Khosla et al. 2020, eq. 2) a picture is drawn towards pictures of its character by *other* artists and
away from all other characters. Batches are made of look-alikes: characters of one hair colour, half of them alike in all
but a trait or two, so that colours alone tell nothing. While it learns, linear heads name the attributes that make a
character (hair, colours, skin, glasses) from the features; that shortens learning much, and the heads are thrown away.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from repro.numerics import fix_torch
from repro.progress import Progress
from repro.randomness import Stream, seed_for

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ccip.encoder import WIDTH
from sample.ccip_pictures import CharacterPictures, kept_pixels, plain_views, varied_views
from sample.characters import Character, Drawn


@dataclass(frozen=True)
class Settings:
    """A batch is `groups` groups of `characters` characters that look alike, `pictures` pictures each."""

    updates: int = 600
    groups: int = 6
    characters: int = 4
    pictures: int = 4
    rate: float = 3e-3
    warmup: int = 30
    weight_decay: float = 0.02
    temperature: float = 0.1
    attribute_weight: float = 1.0


def make_network() -> nn.Sequential:
    """float32 [n, 3, 64, 64] normalised -> [n, 768, 1, 1]. Only what becomes integer convolutions: convolution with
    BatchNorm and ReLU, the last one bare."""
    return nn.Sequential(
        *_block(3, 16, 5, stride=2),
        *_block(16, 40, 3, stride=2),
        *_block(40, 40, 3),
        *_block(40, 80, 3, stride=2),
        *_block(80, 80, 3),
        *_block(80, 128, 3, stride=2),
        *_block(128, 256, 4, padding=0),
        nn.Conv2d(256, WIDTH, 1, bias=False),
    )


def _block(inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int | None = None) -> list[nn.Module]:
    padding = kernel // 2 if padding is None else padding
    return [nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def initialise(network: nn.Module, seed: int) -> None:
    """He-normal convolutions from keyed noise; BatchNorm keeps its ones and zeros."""
    for name, parameter in network.named_parameters():
        if parameter.dim() == 4:
            generator = torch.Generator().manual_seed(seed_for(seed, "ccip weights", name))
            fan_in = parameter[0].numel()
            parameter.data = torch.randn(parameter.shape, generator=generator) * (2 / fan_in) ** 0.5


def look(character: Character) -> str:
    """What is seen first: a drawn character's hair colour, a sprite's family."""
    return character.hair_colour if isinstance(character, Drawn) else character.family[0]


def draw_batch(population: Sequence[CharacterPictures], settings: Settings, stream: Stream) -> list[tuple[int, int]]:
    """(character, picture) positions of one batch. A group is a character and others of the same look: in every second
    group those that share most attributes with it, in the others any. No character stands in two groups. A drawn character's
    pictures are by different artists as far as it has so many."""
    looks = [look(pictures.character) for pictures in population]
    rows = [set(attributes(pictures.character).items()) for pictures in population]
    left = list(range(len(population)))
    batch = []
    for group in range(settings.groups):
        sizes = Counter(looks[character] for character in left)
        first = stream.choice([character for character in left if sizes[looks[character]] >= settings.characters])
        others = [character for character in left if looks[character] == looks[first] and character != first]
        stream.shuffle(others)
        if group % 2 == 0:
            others.sort(key=lambda character: -len(rows[character] & rows[first]))
        for character in [first, *others[: settings.characters - 1]]:
            left.remove(character)
            batch += [(character, picture) for picture in _draw_pictures(population[character], settings.pictures, stream)]
    return batch


def _draw_pictures(pictures: CharacterPictures, count: int, stream: Stream) -> list[int]:
    order = list(range(len(pictures.images)))
    stream.shuffle(order)
    seen: dict[str | None, int] = defaultdict(int)
    turns = []
    for number in order:
        turns.append((seen[pictures.styles[number]], number))
        seen[pictures.styles[number]] += 1
    # First one picture of every artist, in the shuffled order, then second ones; sorting keeps equals in place.
    return [number for _, number in sorted(turns, key=lambda turn: turn[0])][:count]


def unit_vectors(features: torch.Tensor) -> torch.Tensor:
    """[n, width] divided by their lengths; the root in float64, whose rounding is the same on every CPU."""
    return features / features.double().pow(2).sum(1, keepdim=True).sqrt().float().clamp_min(1e-6)


def contrastive_loss(
    features: torch.Tensor, characters: torch.Tensor, styles: Sequence[str | None], temperature: float
) -> torch.Tensor:
    """Supervised contrastive loss of [n, width] features.

    A pair of one character by one artist is left out of both sides, but for sprites (style None), which have one artist only.
    """
    unit = unit_vectors(features)
    logits = unit @ unit.T / temperature
    same = characters[:, None] == characters[None, :]
    easy = torch.tensor([[a is not None and a == b for b in styles] for a in styles]) & same
    positive = same & ~easy
    positive.fill_diagonal_(False)
    left_out = easy.fill_diagonal_(True)
    log_share = logits - torch.logsumexp(logits.masked_fill(left_out, -torch.inf), dim=1, keepdim=True)
    count = positive.sum(1)
    per_picture = -(log_share.masked_fill(~positive, 0.0).sum(1) / count.clamp_min(1))
    return per_picture[count > 0].mean()


def attributes(character: Character) -> dict[str, str]:
    """What makes a character look as it does, by name; sprites have no skin of their own, drawn ones no clothes."""
    if isinstance(character, Drawn):
        own = {"skin": character.skin, "glasses": str(character.glasses)}
        return {"hair": character.hair, "hair_colour": character.hair_colour, **own}
    return {"hair": character.family[0], "hair_colour": str(character.hair_colour), "clothes": str(character.clothes_colour)}


class AttributeHeads(nn.Module):
    """One linear classifier an attribute over unit features."""

    # Unit features of width 768 are small numbers; this brings them near one.
    GAIN = 10.0

    def __init__(self, population: Sequence[CharacterPictures]):
        super().__init__()
        rows = [attributes(pictures.character) for pictures in population]
        self.values = {
            name: sorted({row[name] for row in rows if name in row}) for name in sorted({n for row in rows for n in row})
        }
        # Position of each character's value; -100 is cross_entropy's mark for what does not count.
        self.targets = {
            name: torch.tensor([values.index(row[name]) if name in row else -100 for row in rows])
            for name, values in self.values.items()
        }
        self.heads = nn.ModuleDict({name: nn.Linear(WIDTH, len(values)) for name, values in self.values.items()})
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def loss(self, features: torch.Tensor, characters: torch.Tensor) -> torch.Tensor:
        """Sum over the attributes of the mean cross-entropy; `characters` [n] are positions in the population."""
        unit = self.GAIN * unit_vectors(features)
        losses = [
            cross_entropy(head(unit), self.targets[name][characters], reduction="sum") / len(characters)
            for name, head in self.heads.items()
        ]
        return torch.stack(losses).sum()


def learning_rate(update: int, settings: Settings) -> float:
    """Linear warm-up, then linearly to zero."""
    if update < settings.warmup:
        return settings.rate * (update + 1) / settings.warmup
    return settings.rate * (settings.updates - update) / (settings.updates - settings.warmup)


def train(population: Sequence[CharacterPictures], seed: int, settings: Settings) -> nn.Sequential:
    """A network that has learnt the population's characters, in evaluation mode. One thread; the same bytes every time."""
    fix_torch()
    pixels = [kept_pixels(pictures.images) for pictures in population]
    network = make_network()
    initialise(network, seed)
    network.train()
    heads = AttributeHeads(population)
    # The fused kernel alone has a correctly rounded square root on every CPU.
    parameters = [*network.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=settings.weight_decay, fused=True)
    progress = Progress("ccip", settings.updates, "updates")
    for update in range(settings.updates):
        batch = draw_batch(population, settings, Stream(seed, "ccip batch", update))
        views = varied_views(torch.stack([pixels[c][p] for c, p in batch]), seed, update)
        characters = torch.tensor([c for c, _ in batch])
        styles = [population[c].styles[p] for c, p in batch]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(update, settings)
        features = network(views).flatten(1)
        loss = contrastive_loss(features, characters, styles, settings.temperature)
        naming = heads.loss(features, characters)
        optimizer.zero_grad()
        (loss + settings.attribute_weight * naming).backward()
        optimizer.step()
        progress.advance(note=f"loss {loss.item():.3f}, attributes {naming.item():.3f}")
    return network.eval()


def calibration_views(population: Sequence[CharacterPictures], seed: int, count: int = 256) -> torch.Tensor:
    """Views to measure activations on, float32 [count, 3, 64, 64]: half plain, half varied, spread over the characters."""
    stream = Stream(seed, "ccip calibration")
    images = []
    for number in range(count):
        pictures = population[number % len(population)]
        images.append(pictures.images[stream.below(len(pictures.images))])
    pixels = kept_pixels(images)
    half = count // 2
    return torch.cat([plain_views(pixels[:half]), varied_views(pixels[half:], seed, -1)])
