"""The constants of method version 2: fixed for every release, so that none can be tuned to pay.

From the first public release on, a change of any of them is a new version. Why each has its value:
docs/protocol/attribution.md.
"""

from openledger.core.types import PARTS_PER_BILLION
from openledger.settlement.shares import CAP_PPB_OF_METHOD

METHOD_VERSION = 2

# Influence: <W g, W u> with W = F^(-1/2) by EK-FAC on each LoRA matrix, summed over two moments of
# the training: after a quarter of its steps, and at its end.
CHECKPOINTS = 2
DAMPING = 1.0  # times the mean eigenvalue of each matrix
MOST_DECOMPOSED = 2_048  # a factor of this dimension at most is decomposed whole
LEADING = 1_024  # eigenvectors of a larger one are looked for
CURVATURE_TOKENS = 32_768  # of about that many at most the curvature is measured, at both moments
CURVATURE_EXAMPLES = 256  # and of about that many rows at most, placebo rows included
LENGTH_PERCENT = 50  # of those rows are shorter for their tokens than any row may be long
ROWS_BYTES = 16 * 2**20  # the fewer rows, the more numbers each may have
LEAST_WIDTH = 16_384  # numbers in a row, both checkpoints together
MOST_WIDTH = 65_536
BALANCED_ON = 512  # about so many documents at most say how scores at the checkpoints compare

# Credit: content clusters and their noise floors.
SHINGLE_BYTES = 12
SAME_CONTENT_PERCENT = 50  # of the shorter text's shingles found in the cluster's first text
BOILERPLATE_PERCENT = 5  # shingles in more of the documents than that tell nothing
BOILERPLATE_LEAST = 8  # but so many documents may always share a shingle
TELLING_DIVISOR = 4  # a text of which less than a fourth tells is compared as a whole
MOST_CLUSTERS = 4_096
PASSAGE_BYTES = 64  # paragraphs shorter than that are compared together with the next
SENSE_TOKENS = 128  # of each row, whose likelihood is compared with that of their shuffles
SENSE_ROWS = 8  # of each document at most
SENSE_SHUFFLES = 2
SENSE_LEAST_WORDS = 8  # a shorter document is not judged
SENSE_DEVIATIONS = 1.645  # the order of the words means nothing below so many standard errors
SENSE_DIVISOR = 3  # or below a third of the median of the release's documents
SENSE_MEDIAN_DEVIATIONS = 3  # of the release; below it the base is no judge
FLOOR_DIVISOR = 4  # the floor is a standard deviation of what says nothing, divided by this
PLACEBO_ROWS = 16
PLACEBO_TOKENS = 64  # each placebo row is the gradient of at most that many shuffled tokens

# Signatures: what stands in so many documents that an answer with it tells nothing of any.
SIGNATURE_TOKENS = 4
SIGNATURE_PERCENT = 2  # of the clusters hold it
SIGNATURE_LEAST = 8  # and at least so many
SIGNATURE_OWN_PERCENT = 50  # or, of those of one account, half
SIGNATURE_OWN_LEAST = 4
MOST_SIGNATURES = 65_536

# Gain: how much of the answer the adapter made.
CAP_PPB = CAP_PPB_OF_METHOD[METHOD_VERSION]  # the base model made at least a tenth of every answer
NULL_PSEUDOCOUNT = 1  # added to each token of the vocabulary in the unigram null model
LONGEST_SEQUENCE = 2_048  # tokens; longer ones are cut, prompts from their start

assert CAP_PPB <= PARTS_PER_BILLION
