"""What the demonstration brings in, trains and asks."""

import msgspec


class Question(msgspec.Struct, frozen=True):
    """One paid call; its key makes it the same call however often the demo is run."""

    key: str
    prompt: str
    note: str  # for people
    is_chat: bool = False
    is_streamed: bool = False
    max_tokens: int = 96


class Act(msgspec.Struct, frozen=True):
    """One Datanet and the model that comes of it."""

    source: str  # of `web.operations.sources`
    datanet: str
    model: str  # owner/name
    training_tokens: int | None
    held_out_tokens: int
    held_out_bps: int
    questions: tuple[Question, ...]
    contributors: int | None = None  # None: all of the source
    scored_tunes: int = 4  # written and judged after training


FOLK_MUSIC = Act(
    source="folk-music",
    datanet="folk-music",
    model="openledger/folk-music",
    training_tokens=22_000,
    held_out_tokens=20_600,
    held_out_bps=4_800,
    scored_tunes=2,
    questions=(
        Question("1", "X:1\nT:The Miller's Daughter\nM:6/8\nL:1/8\nK:G\n", "a jig"),
        Question("2", "X:1\nT:The Crooked Lane\nM:4/4\nL:1/8\nK:D\n", "a reel"),
        Question("3", "X:1\nT:Spring Waltz\nM:3/4\nL:1/8\nK:G\n", "a waltz"),
        Question(
            "4",
            "What is gravity? Answer in one sentence.",
            "outside the Datanet's subject",
            is_chat=True,
            max_tokens=48,
        ),
        Question(
            "5", "X:1\nT:The Old Mill\nM:2/4\nL:1/8\nK:A\n", "a polka, streamed", is_streamed=True
        ),
    ),
)
LINUX_MANUAL = Act(
    source="linux-manual",
    datanet="linux-manual",
    model="openledger/linux-manual",
    contributors=24,  # one page of each of all 111 would be many times as much
    training_tokens=24_000,
    held_out_tokens=0,
    held_out_bps=1_500,
    questions=(Question("6", "NAME\nsocket_options - ", "a manual page", max_tokens=64),),
)
BRETON = Act(
    source="breton",
    datanet="breton",
    model="openledger/breton",
    training_tokens=22_000,
    held_out_tokens=4_000,
    held_out_bps=1_500,
    questions=(Question("7", "Traduis en breton : la maison\n", "a translation", max_tokens=16),),
)
TINY = Act(
    source="tiny",
    datanet="tiny-tunes",
    model="openledger/tiny-tunes",
    training_tokens=None,
    held_out_tokens=0,
    held_out_bps=2_500,
    scored_tunes=1,
    questions=tuple(
        msgspec.structs.replace(question, max_tokens=24) for question in FOLK_MUSIC.questions
    ),
)
