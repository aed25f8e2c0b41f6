"""What the speed of label scoring is measured on: labels, examples, texts, prompts.

Two labels and 26 are parts of the body, to be found in made-up emergency-room notes; 77
are the intents of BANKING77 (Casanueva et al. 2020, "Efficient Intent Detection with
Dual Sentence Encoders", CC BY 4.0), with spaces for underscores, to be found in made-up
messages to a bank.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from helpers.models import LanguageModel
from helpers.scoring import label_logprobs
from helpers.verbalizer import LabelTokens, Verbalizer

N_TEXTS = 64
N_CHECKED = 8  # texts of which results are compared
SHOTS = (0, 8, 25)


def pairs(block: str) -> list[tuple[str, str]]:
    """Texts with their labels behind "=", with "-" before each."""
    items = [" ".join(item.split()) for item in block.split("\n- ")[1:]]
    return [tuple(item.split(" = ")) for item in items]


BODY_PARTS = (
    "internal,shoulder,upper trunk,elbow,lower arm,wrist,knee,lower leg,ankle,"
    "pubic region,head,face,eyeball,lower trunk,upper arm,upper leg,hand,foot,"
    "25-50% of body,all parts of body,not recorded,mouth,neck,finger,toe,ear"
).split(",")
INTENTS = (
    "activate my card,age limit,apple pay or google pay,atm support,automatic top up,"
    "balance not updated after bank transfer,"
    "balance not updated after cheque or cash deposit,beneficiary not allowed,"
    "cancel transfer,card about to expire,card acceptance,card arrival,"
    "card delivery estimate,card linking,card not working,card payment fee charged,"
    "card payment not recognised,card payment wrong exchange rate,card swallowed,"
    "cash withdrawal charge,cash withdrawal not recognised,change pin,"
    "compromised card,contactless not working,country support,declined card payment,"
    "declined cash withdrawal,declined transfer,direct debit payment not recognised,"
    "disposable card limits,edit personal details,exchange charge,exchange rate,"
    "exchange via app,extra charge on statement,failed transfer,"
    "fiat currency support,get disposable virtual card,get physical card,"
    "getting spare card,getting virtual card,lost or stolen card,"
    "lost or stolen phone,order physical card,passcode forgotten,"
    "pending card payment,pending cash withdrawal,pending top up,pending transfer,"
    "pin blocked,receiving money,refund not showing up,request refund,"
    "reverted card payment,supported cards and currencies,terminate account,"
    "top up by bank transfer charge,top up by card charge,top up by cash or cheque,"
    "top up failed,top up limits,top up reverted,topping up by card,"
    "transaction charged twice,transfer fee charged,transfer into account,"
    "transfer not received by recipient,transfer timing,unable to verify identity,"
    "verify my identity,verify source of funds,verify top up,"
    "virtual card not working,visa or mastercard,why verify identity,"
    "wrong amount of cash received,wrong exchange rate for cash withdrawal"
).split(",")

INJURY_EXAMPLES = pairs(
    """
- 34yom cut his finger on the lid of a tin can while cooking dinner at home last night.
dx: finger laceration = finger
- 8yof fell off the monkey bars at school, landed on an outstretched arm, with
deformity. dx: fracture of radius = lower arm
- 61yof tripped over the dog on the stairs, twisted her ankle and cannot bear weight.
dx: ankle sprain = ankle
- 19yom was hit by a baseball at practice, with swelling under the eye and a nose bleed.
dx: facial contusion = face
- 2yom swallowed a button battery from a toy car, seen by his mother this morning. dx:
foreign body ingestion = internal
- 45yom was lifting boxes in the garage and felt a pop, pain worse on bending. dx:
lumbar strain = lower trunk
- 15yof collided with another player at soccer, no loss of consciousness, vomited once.
dx: concussion = head
- 27yom dropped a weight on his foot while exercising in the gym, nail torn off. dx:
crush injury of great toe = toe
"""
)
BANK_EXAMPLES = pairs(
    """
- The machine at the airport kept my card. How do I get it back? = card swallowed
- I have not got my new card yet, and it is two weeks now. = card arrival
- You took a pound from me when I paid in a shop, why? = card payment fee charged
- I entered my PIN wrong three times, and now it is locked. = pin blocked
- My money is not in dollars at the rate you had said. = exchange rate
- The shop said weeks ago that they paid me back. = refund not showing up
- There is a payment here twice, and I made it once only. = transaction charged twice
- I want to close my account, as I am not content. = terminate account
"""
)
INJURY_SCENES = [
    "slipped on the wet kitchen floor and landed on left {}, able to walk",
    "was playing soccer when kicked in the {}, pain with movement since then",
    "struck {} on the corner of a table at home while running after a sibling",
    "fell from a ladder while cleaning gutters, injured {} and back of the hand",
    "riding a bicycle without a helmet, hit a pothole, has abrasions to the {}",
    "jumping on a trampoline, came down wrong, now c/o {} pain and swelling",
    "burned {} with hot water from a kettle this morning, blisters seen",
    "caught {} in a closing car door, bruised, no deformity, good pulses",
]
BANK_SCENES = [
    "I tried to {} this morning and it did not go through. What should I do now?",
    "Is there a fee if I want to {}? I was charged something last week.",
    "How long does it take when I {}? It has been pending since Monday.",
    "Can you help me to {}? I am on holiday and the machine took my card.",
    "Your app asks who I am each time before I {}. Why is that so?",
    "Somebody else seems to {} from my account. I know nothing of it.",
    "Why was I not allowed to {} yesterday evening? It always worked before.",
    "My phone was stolen, so I cannot {} any more. Please tell me how.",
]
PARTS = "knee,wrist,shin,forearm,big toe,jaw,hip,shoulder".split(",")
MORE_PARTS = "elbow,ankle,thumb".split(",")
ERRANDS = (
    "top up with my new card,pay for lunch by phone,withdraw cash at the station,"
    "send money to my sister,change the PIN of my card,change pounds into euros,"
    "get a refund from a shop,order a second card"
).split(",")
MORE_ERRANDS = "pay a bill abroad,add my salary,use the virtual card".split(",")
DIAGNOSES = ["dx: contusion", "dx: fracture", "dx: sprain", "dx: laceration, sutured"]


def injuries(parts: list[str]) -> list[str]:
    """Made-up emergency-room notes of the usual length, about 95 characters."""
    return [
        f"{7 + 5 * n % 80}yo{'mf'[n % 2]} {scene.format(part)}. {DIAGNOSES[n % 4]}"
        for n, (scene, part) in enumerate(itertools.product(INJURY_SCENES, parts))
    ]


def messages(errands: list[str]) -> list[str]:
    """Made-up messages to a bank."""
    both = itertools.product(BANK_SCENES, errands)
    return [scene.format(errand) for scene, errand in both]


def seconds(work: Callable[[], object], repeats: int = 1) -> float:
    """Best time of some runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


@dataclass(frozen=True)
class Case:
    """Prompts and the labels that may follow them."""

    labels: tuple[str, ...]
    shots: int

    def __str__(self) -> str:
        return f"{len(self.labels)} labels, {self.shots} examples"

    @property
    def ending(self) -> str:
        """The line that every prompt ends in."""
        return "\nIntent:" if len(self.labels) > 26 else "\nBody part:"

    @cached_property
    def prompts(self) -> list[str]:
        """One prompt more than are timed: the last is for warming up."""
        if len(self.labels) > 26:
            task, field = "What does the customer want?", "Message"
            examples, further = BANK_EXAMPLES, messages(MORE_ERRANDS)
            texts = messages(ERRANDS)
        else:
            task, field = "Which part of the body was hurt?", "Narrative"
            examples, further = INJURY_EXAMPLES, injuries(MORE_PARTS)
            texts = injuries(PARTS)
        turn = itertools.cycle(self.labels)
        shown = [
            (text, answer if answer in self.labels else next(turn))
            for text, answer in examples
        ]
        shown += zip(further[:-1], turn, strict=False)
        blocks = [
            f"{field}: {text}{self.ending} {answer}\n\n"
            for text, answer in shown[: self.shots]
        ]
        before = f"{task}\n\n{''.join(blocks)}{field}: "
        return [f"{before}{text}{self.ending}" for text in [*texts, further[-1]]]


CASES = [
    Case(tuple(labels), shots)
    for labels in (["finger", "head"], BODY_PARTS, INTENTS)
    for shots in SHOTS
]


@dataclass(frozen=True)
class Prepared:
    """A case as token ids, which are the same for every way to score it."""

    case: Case
    ids: list[list[int]]
    tokens: LabelTokens
    firsts: tuple[int, ...]

    @classmethod
    def of(cls, case: Case, model: LanguageModel) -> Prepared:
        """Tokenize a case."""
        tokens = Verbalizer(case.labels).tokens(model, after=case.ending)
        firsts = dict.fromkeys(sequence[0] for sequence in tokens.sequences)
        ids = [model.encode(prompt) for prompt in case.prompts]
        return cls(case, ids, tokens, tuple(firsts))

    def first_tokens(self) -> LabelTokens:
        """The first tokens as labels of their own."""
        names = tuple(str(token) for token in self.firsts)
        sequences = tuple((token,) for token in self.firsts)
        return LabelTokens(names, sequences, tuple(range(len(names))))

    def reference(self, model: LanguageModel, gives: str) -> np.ndarray:
        """What a way should give for the texts that are checked."""
        tokens = self.tokens if gives == "every label" else self.first_tokens()
        return label_logprobs(model, self.ids[:N_CHECKED], tokens, progress=False)
