"""grammar.py - a story grammar: endless short stories for children, most with a matching request.

A story has a hero, mostly a friend, a place, a thing, and one of the plots in plots.py: a problem,
the dialogue about it, and an ending. Names, pronouns, kinds and things are consistent from the
first sentence to the last; a model must learn this. One story in eight is about made-up kinds and
things ("a blimo"), so that the model learns to copy words of a request.

Deterministic: story N of a seed is the same on every machine and Python version, because the
random numbers are made here and nothing depends on the order of sets or dictionaries.

    grammar.py [FIRST [COUNT [SEED]]]     prints stories
"""
import sys

from plots import PLOTS

MASK = (1 << 64) - 1


class Random:
    """splitmix64. `below` uses the high bits of a product, which are the same on any machine."""

    def __init__(self, seed):
        self.state = seed & MASK

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def below(self, n):
        return (self.next() * n) >> 64

    def pick(self, items):
        return items[self.below(len(items))]

    def chance(self, percent):
        return self.below(100) < percent


SHE = ("Mia Lily Anna Ella Nora Rosa Tilda Wilma Ida Greta Luna Ruby Hazel Clara Poppy Daisy Molly "
       "Sara Emma Olive").split()
HE = ("Tom Ben Max Leo Oscar Felix Hugo Otto Sam Jack Milo Finn Theo Bruno Emil Anton Paul Toby "
      "Henry Oliver").split()
KINDS = ("fox rabbit bear mouse cat dog bird duck frog owl hedgehog squirrel turtle horse pig cow "
         "goat sheep lion tiger elephant monkey wolf deer badger dragon robot giant boy girl king "
         "queen prince princess knight pirate wizard farmer baker sailor penguin bee snail crab "
         "whale").split()
ONLY_HE = ("boy", "king", "prince")
ONLY_SHE = ("girl", "queen", "princess", "cow", "bee")
TRAITS = "little young small brave kind clever curious cheerful shy quiet friendly gentle".split()
COLOURS = "red blue green yellow golden silver white purple orange pink".split()
THINGS = ("kite ball drum lantern hat scarf boat bell book cup basket key flute button blanket "
          "wagon whistle coat ring spoon box mirror pencil umbrella shoe bucket clock candle "
          "feather stone").split()
FRUITS = "apple pear nut plum carrot berry cheese peach pumpkin".split()
FOODS = ("apple pear cake pie cookie nut plum carrot berry cheese pancake sandwich peach "
         "pumpkin").split()
PLACES = (  # where a story happens, the same with another preposition, and three spots there
    ("in a small village", "in the village", "under the bridge", "behind the well",
     "beside the mill"),
    ("in a green forest", "in the forest", "under the old oak", "behind the big rock",
     "beside the stream"),
    ("near the sea", "on the shore", "under the pier", "behind the rocks", "in the warm sand"),
    ("on a high hill", "on the hill", "under the tall pine", "behind the fence",
     "in the long grass"),
    ("by a wide river", "on the river", "under the willow", "behind the reeds", "beside the water"),
    ("on a quiet farm", "on the farm", "under the ladder", "behind the barn", "in the hay"),
    ("in a busy town", "in the town", "under the bench", "behind the market",
     "beside the fountain"),
    ("at the edge of a lake", "on the lake", "under the dock", "behind the bushes",
     "on the little island"),
    ("in a deep valley", "in the valley", "under the apple tree", "behind the hut",
     "beside the path"),
    ("in a large garden", "in the garden", "under the roses", "behind the shed", "beside the pond"),
    ("in a snowy land", "in the snow", "under the ice", "behind the tall firs", "in the deep snow"),
    ("in an old castle", "in the castle", "under the stairs", "behind the gate",
     "in the high tower"),
)
SYLLABLES = ("ba be bo da do fi fo ga go ka ki lo lu ma mi mo na no pa pi ra ri ro sa so ta ti to "
             "va wi zo zu").split()
CODAS = ["", "", "n", "m", "l", "x", "sk", "rt"]


def article(word):
    return ("an " if word[0] in "aeiou" else "a ") + word


def made_up(r):
    word = "".join(r.pick(SYLLABLES) for _ in range(2 + r.below(2)))
    return word + r.pick(CODAS)


class Someone:
    def __init__(self, r, kind, she):
        self.kind = kind
        self.trait = r.pick(TRAITS)
        self.name = r.pick(SHE if she else HE)
        if r.chance(6):
            self.name = made_up(r).capitalize()
        self.he, self.his, self.him = ("she", "her", "her") if she else ("he", "his", "him")

    def slots(self, role):
        """{hero} {hero.kind} {hero.he} {hero.He} ...; for the hero also {kind} {he} {He} ..."""
        words = {"kind": self.kind, "trait": self.trait, "he": self.he, "his": self.his,
                 "him": self.him, "He": self.he.capitalize(), "His": self.his.capitalize(),
                 "akind": article(self.kind), "whole": article(self.trait + " " + self.kind)}
        slots = {role + "." + key: word for key, word in words.items()}
        slots[role] = self.name
        if role == "hero":
            slots.update(words)
        return slots


def expand(r, text, slots):
    """Replaces {slot}, and [one|of|these] (may be nested), from left to right."""
    out = []
    i = 0
    while i < len(text):
        c = text[i]
        if c == "{":
            end = text.index("}", i)
            out.append(slots[text[i + 1:end]])
            i = end + 1
        elif c == "[":
            choices, depth, start = [], 0, i + 1
            j = i
            while True:
                if text[j] == "[":
                    depth += 1
                elif text[j] == "]":
                    depth -= 1
                if (text[j] == "|" and depth == 1) or depth == 0:
                    choices.append(text[start:j])
                    start = j + 1
                if depth == 0:
                    break
                j += 1
            out.append(expand(r, r.pick(choices), slots))
            i = j + 1
        else:
            out.append(c)
            i += 1
    return "".join(out)


OPENINGS = (
    "Once upon a time, {hero.whole} named {hero} lived {place}.",
    "Once upon a time, there was {hero.whole} named {hero}. {He} lived {place}.",
    "[Long ago|Many years ago], {hero.whole} named {hero} lived {place}.",
    "{hero} was {hero.whole}. {He} lived {place}.",
    "There once was {hero.whole} {place}. {His} name was {hero}.",
)
DETAILS = (  # more about the hero, in some stories
    "{He} liked {afood} more than anything.", "Everybody [knew|liked] {him}.",
    "{He} always wore {acolour2} [hat|scarf|coat].",
    "{He} lived alone with {his} [mother|brother|sister|grandmother].",
    "{His} house was small, but it had {acolour2} door.", "{He} was never without {his} {thing2}.",
    "In the morning, {he} [sang a song|drank warm milk|looked at the sky].",
    "The [birds sang|sun shone|wind was soft], and the sky was [blue|clear|grey].",
    "{He} [often|always] dreamed of [the sea|far lands|great adventures].",
)
ASKS = (
    "[Tell|Tell|Please tell] me a story about {topic}.",
    "[Write|Write me] a [story|short story] about {topic}.",
    "A story about {topic}[, please.|.|]",
    "[tell|write] me a story about {topic}",
    "Can you tell me a story about {topic}?",
    "Tell me about {topic}.",
    "I want to hear a story about {topic}.",
)
TOPICS = (  # for any plot; people ask for the hero's kind most
    "{akind}", "{akind}", "{akind}", "{whole}", "{whole}", "{akind} named {hero}",
    "{whole} named {hero}", "{hero}", "{hero} the {kind}",
)
FRIEND_TOPICS = ("{akind} and {friend.akind}", "{hero} and {friend}",
                 "{akind} who helps a friend")


def story(seed, number):
    """Returns (request or None, text) of one story."""
    r = Random((seed << 32) ^ (number * 0x2545F4914F6CDD1D))
    r.next()
    plot = r.pick(PLOTS)
    strange = r.chance(12)
    hero_kind = made_up(r) if strange else r.pick(KINDS)
    she = hero_kind in ONLY_SHE or (hero_kind not in ONLY_HE and r.chance(50))
    others = [k for k in KINDS if k != hero_kind and k not in (ONLY_SHE if she else ONLY_HE)]
    hero = Someone(r, hero_kind, she)
    friend = Someone(r, r.pick(others), not she)  # so that "she" and "he" are never ambiguous
    place = r.pick(PLACES)
    thing = made_up(r) if strange and r.chance(50) else r.pick(plot.get("things", THINGS))
    hidden = list(place[2:])
    found = hidden.pop(r.below(3))
    colour = r.pick(COLOURS)
    food = r.pick(FOODS)
    slots = {"place": place[0], "land": place[1], "here": hidden[0], "there": hidden[1],
             "found": found, "thing": thing, "athing": article(thing), "colour": colour,
             "acolour": article(colour), "fruit": r.pick(FRUITS), "food": food,
             "afood": article(food)}
    slots.update({"acolour2": article(r.pick(COLOURS)), "thing2": r.pick(THINGS)})
    slots.update(hero.slots("hero"))
    slots.update(friend.slots("friend"))
    if "variants" in plot:
        chosen = r.pick(plot["variants"])
        for key in sorted(chosen):
            slots[key] = expand(r, chosen[key], slots)
    parts = [expand(r, r.pick(OPENINGS), slots)]
    if r.chance(25):
        parts.append(expand(r, r.pick(DETAILS), slots))
    parts += [expand(r, sentence, slots) for sentence in plot["text"]]
    text = " ".join(p for p in parts if p)
    if r.chance(15):
        return None, text
    n = r.below(10)
    topics = plot["topics"] if n < 6 else FRIEND_TOPICS if n < 7 else TOPICS
    topic = expand(r, r.pick(topics), slots)
    slots["topic"] = topic
    return expand(r, r.pick(ASKS), slots), text


def main():
    first = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    for number in range(first, first + count):
        request, text = story(seed, number)
        print("> " + (request or ""))
        print(text + "\n")


if __name__ == "__main__":
    main()
