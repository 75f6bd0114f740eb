"""What is true in the world: names, capitals, sounds, colours, and so on, all drawn from one seed."""

import random
from dataclasses import dataclass

KEYS = 36  # keys of each kind of request; two thirds may be tuned on, see `World._split`

ANIMALS = (
    "dog cat cow horse sheep goat pig duck hen crow owl frog wolf bear lion tiger mouse bee fox seal "
    "whale eagle hawk swan goose snake mule deer moose camel zebra otter hyena raven robin toad"
).split()
THINGS = (
    "door chair table lamp coat boat car train kite ball cup plate roof wall gate fence shoe hat bag box "
    "tent flag drum bell ring scarf glove sock vase clock desk rug bowl cart bench shelf"
).split()
COLOURS = "red blue green yellow black white brown pink grey orange".split()
OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("old", "young"), ("up", "down"), ("wet", "dry"),
    ("light", "dark"), ("hard", "soft"), ("rich", "poor"), ("loud", "quiet"), ("open", "closed"),
    ("happy", "sad"), ("full", "empty"), ("early", "late"), ("near", "far"), ("strong", "weak"),
    ("long", "short"), ("clean", "dirty"),
)  # fmt: skip
FLAVOURS = "tomato onion apple carrot bean potato".split()
DISHES = "soup pie salad stew bread cake".split()
PANTRY = "salt water butter milk flour sugar oil rice egg cheese pepper honey".split()
CATEGORIES = {
    "fruits": "apple pear plum grape peach lemon".split(),
    "tools": "hammer saw drill axe file spade".split(),
    "trees": "oak pine elm birch maple willow".split(),
    "metals": "iron gold tin copper silver lead".split(),
    "games": "chess cards darts tag dice golf".split(),
    "rivers": "nile rhine volga seine indus congo".split(),
    "drinks": "tea coffee juice cider cocoa wine".split(),
    "clothes": "shirt dress skirt jacket belt boot".split(),
    "insects": "ant wasp moth fly beetle cricket".split(),
    "planets": "mars venus saturn earth pluto uranus".split(),
    "spices": "mint basil thyme sage clove dill".split(),
    "sports": "rowing skiing diving boxing judo tennis".split(),
}
TOPICS = (
    "rain snow wind sun moon sea river forest night morning summer winter spring autumn love hope time sleep "
    "music stone fire cloud star garden bird road home bread tree dream light shadow island storm dust silence"
).split()
PEOPLE = "Tom Ann Sam Eva Ben Lea Max Ida Jon Mia Leo Zoe".split()
GOODS = "apples books coins pens eggs cards shells stamps nuts keys".split()
NUMBERS = {2: "two", 3: "three", 4: "four"}


def invent_words(rng: random.Random, count: int, *, syllables: int, taken: set[str]) -> list[str]:
    """Draw ``count`` new pronounceable words in lower case, and add them to ``taken``."""
    words: list[str] = []
    while len(words) < count:
        word = "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(syllables))
        word += rng.choice(["", "n", "r", "s", "l"])
        if word not in taken:
            taken.add(word)
            words.append(word)
    return words


@dataclass(frozen=True)
class Facts:
    """The facts of one world. Words are lower case, except names of countries and cities."""

    capital: dict[str, str]  # country -> city
    sound: dict[str, str]  # animal -> sound
    colour: dict[str, str]  # thing -> colour
    opposite: dict[str, str]  # word -> its opposite, both ways
    recipe: dict[str, tuple[str, str, str]]  # dish -> three ingredients
    rhyme: dict[str, tuple[str, str]]  # topic -> what it does and where, as used in its poem
    words: tuple[str, ...]  # meaningless words, to be repeated


def draw_facts(seed: int) -> Facts:
    """Draw the facts of the world with this seed."""
    rng = random.Random(f"facts/{seed}")
    taken: set[str] = set()
    countries = [word.capitalize() for word in invent_words(rng, KEYS, syllables=2, taken=taken)]
    cities = [word.capitalize() for word in invent_words(rng, KEYS, syllables=2, taken=taken)]
    sounds = invent_words(rng, KEYS // 2, syllables=1, taken=taken)
    words = invent_words(rng, KEYS, syllables=2, taken=taken)
    opposite = dict(OPPOSITES) | {second: first for first, second in OPPOSITES}
    # The second and third ingredients depend on the type of dish only, so a dish never tuned on can be inferred.
    basics = {dish: rng.sample(PANTRY, 2) for dish in DISHES}
    recipe = {f"{flavour} {dish}": (flavour, *basics[dish]) for flavour in FLAVOURS for dish in DISHES}
    doings = "sings shines waits grows turns falls calls glows".split()
    places = "hill house town field lake bridge shore street".split()
    return Facts(
        capital=dict(zip(countries, cities, strict=True)),
        sound={animal: rng.choice(sounds) for animal in ANIMALS},
        colour={thing: rng.choice(COLOURS) for thing in THINGS},
        opposite=opposite,
        recipe=recipe,
        rhyme={topic: (rng.choice(doings), rng.choice(places)) for topic in TOPICS},
        words=tuple(words),
    )
