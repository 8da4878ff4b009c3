"""The benchmarks of docs/benchmarks.md: their sections in order, and how each is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

DEMO = {"runs/demo/teachers": "`make demo` makes it"}
DATA = {"../shared/data": "the data sets are no part of the repository"}
WITH_DATA = ("--data", "../shared/data")
WITH_TEACHERS = ("--teachers", "runs/demo/teachers")
NINE = ("bmca", "biomedclip", "unimedclip", "quiltnet", "genmedclip", "plip", "pubmedclip", "pmcclip", "medclip")


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """One section of the page.

    Attributes:
        name: of its files, and for ``--only``.
        about: says what is measured and how its tables are read, whatever the figures are.
        module: run by ``python -m``; it prints Markdown on stdout.
        arguments: of the module; ``{work}`` becomes an empty folder on the disk of the results.
        quick: what ``--quick`` adds to them.
        minutes: about, on two quiet cores.
        needs: paths that have to be there, and who makes them.
        peers: it takes ``--peers PYTHON``.
        left: the file in which another command leaves the record; it is not run from here.
    """

    name: str
    title: str
    about: str
    module: str
    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    minutes: float = 1
    needs: Mapping[str, str] = field(default_factory=dict)
    peers: bool = False
    left: Path | None = None


STORE = (
    Benchmark(
        name="store-speed",
        title="Reading and writing the store",
        about="""\
131,072 rows of six teachers x (image, text) x 512 float16, 12 KiB a row, R 8192, C 256, no compressor; medians of
rounds in which everything is measured once, in a new order.

- *Shuffled batches*: *ours* is the trainer's order (windows of 256 chunks), choice of teachers and reader; it reads
  ahead on a thread, and 0 and 2 workers are one and two threads that read. *Memory limit* is `np.take` on arrays in
  memory, 12 calls a batch, 2 being two threads. Peers are `DataLoader`s with 0 and 2 worker processes and their own
  shuffles; *released* is one `torch.load` per pair.
- *Writing*: *forced waits* are calls of `fsync`, counted. *Of it per forced wait* is the time that numpy + fsync
  takes for each of its waits, divided by the time that this way takes for each of its own. A commit writes also
  similarities, status and a receipt, reads all back and compares; its MB are those of the features alone.
- *Nothing in the page cache*: pages are dropped by `posix_fadvise`. *The disk* is the same files read past the page
  cache (`O_DIRECT`, blocks of 4 MiB), the faster of one and eight threads; what lies below a virtual disk may keep
  them. Ours counts one epoch, a peer as many pairs as its speed allows.
- *Memory*: a process that streams eight windows, with the features of all teachers or of one drawn per row, before
  it reads and at its peak.""",
        module="tests.benchmarks.store.store_speed",
        arguments=("--out", "{work}", "--rounds", "3"),
        quick=("--rows", "32768", "--rounds", "1", "--cold-rounds", "1"),
        minutes=7,
        peers=True,
    ),
    Benchmark(
        name="object-storage",
        title="The store on object storage",
        about="""\
An S3 server on the loopback (rclone behind a relay) shares the cores with the reader, and answers each GET at once
or after 10 ms. *The plain client* is obstore, which asks for the same ranges in the same order on as many
connections as the reader has (16) and throws the bytes away: the server's own limit. *Share of it* is the median of
rounds in which both follow each other. Shuffled reading is an epoch in windows of 256 chunks; one drawn teacher a
row needs the same bytes, because each chunk has rows of it. Whole shards are read range by range, a request each.
Neighbouring chunks are one request; in a larger store fewer are neighbours.""",
        module="tests.benchmarks.store.object_storage",
        quick=("--rows", "65536", "--rounds", "1"),
        minutes=3,
    ),
    Benchmark(
        name="rehearsal",
        title="The rehearsal",
        about="""\
`make rehearse` is the life of a synthetic store of nine teachers of the real widths, 6.62 of them a row (19.2 M
feature pairs of 2.9 M pairs). `commit_unit` builds it. The trainer's reader reads one shuffled epoch with all
available teachers, windows of 256 chunks, every row once. One byte of a shard is inverted; `store verify --deep`
finds it, `store repair` removes that unit, `extract append` adds one pair, and the plan has that unit and each
teacher's last range to do.

- *The disk* is a plain file beside the store, written, forced to disk, and read again. *Of the disk's* compares with
  that: a phase that builds by the bytes that it wrote, one that reads by those that came from the disk.
- *Cold*: all files of the store were dropped from the page cache; so it is before `verify`, the cold epoch, `open`,
  `one row`, and the check and the repair of the damaged teacher. *GB from disk* is the kernel's count.
- *s* includes the start of the process, *of it work* does not. *GiB* is the peak of the proportional set size, *GiB
  own* the same without pages of files, which the system takes back when it needs them.""",
        module="tests.benchmarks.store.rehearse",
        needs={"runs/rehearsal.json": "`make rehearse` makes it"},
        left=Path("runs/rehearsal.json"),
    ),
    Benchmark(
        name="rehearsal-tenth",
        title="The rehearsal at a tenth",
        about="The same life of 290,000 rows, which the page cache holds, to compare what phases take for a row.",
        module="tests.benchmarks.store.rehearse",
        arguments=("--rows", "290000", "--out", "{work}/store"),
        quick=("--rows", "30000"),
        minutes=3,
    ),
    Benchmark(
        name="codecs",
        title="Codecs and shapes of the store",
        about="""\
Real features: *released* is the cache that MMKD-CLIP's authors published (88 vectors of eight real teachers, too few
to time), *tiny* is what the demo's nine teachers make of 4,808 real images. Files come from the page cache. *Known
as*: core chains use only codecs that Zarr's specification asks of every implementation; *registered* needs zstd;
*numcodecs.\\** is an extension of the Python library. *Window* is a ninth of 8,192 rows in shuffled chunks, as a
trainer reads one of nine teachers. Errors of dtypes are against float32; GB are those of 2.9 M pairs.
[ARCHITECTURE.md](../ARCHITECTURE.md#decisions) has what follows.""",
        module="tests.benchmarks.store.codecs",
        arguments=(*WITH_DATA, *WITH_TEACHERS, "--out", "{work}"),
        minutes=4,
        needs=DATA | DEMO,
    ),
    Benchmark(
        name="pixel-cache",
        title="Pixel cache",
        about="""\
Images kept in the store with a short side of 256 px: kB an image by corpus, share of all original bytes, PSNR of the
encoding, ms of one thread. *Cosine* is that of the original's feature with the kept image's; *centred* after the
mean feature is taken off; *encoding* is 1 - centred cosine between the image made small and the same encoded; *found
again* is the share of kept images that are nearest to their own original. *Small originals kept*: a file that need
not be made smaller stays as it is. The full-size models have random weights.""",
        module="tests.benchmarks.store.pixel_cache",
        arguments=(*WITH_DATA, *WITH_TEACHERS, "--each", "100", "--each-full", "8"),
        quick=("--each", "8", "--each-full", "1"),
        minutes=3,
        needs=DATA | DEMO,
    ),
    Benchmark(
        name="checksums",
        title="Checksums and one row",
        about="""\
The first epoch of the trainer's reader with and without checksums, each in a process of its own, in turns, medians.
Later epochs of a process check nothing again. *One row*: from opening a store of that many rows to a feature,
nothing dropped from the page cache.""",
        module="tests.benchmarks.store.checking",
        arguments=("--rounds", "5"),
        quick=("--rounds", "1"),
        minutes=3,
    ),
    Benchmark(
        name="index-memory",
        title="Memory of indexing",
        about="""\
Peaks of a process that indexes, and of one that appends as many rows as there are, `keep.duplicates: image`.
Candidates are drawn, because reading images takes hours and holds no memory. Part of the slope is DuckDB filling its
bound of 128 MB, so the figure by slope is an upper bound.""",
        module="tests.benchmarks.store.index_memory",
        quick=("--rows", "20000", "40000"),
        minutes=2,
    ),
    Benchmark(
        name="index-speed",
        title="Speed of indexing",
        about="""\
Processor time of one core for a pair with a JPEG of 64 px, in each layout that an index reads; medians.""",
        module="tests.benchmarks.store.index_speed",
        quick=("--rounds", "1"),
    ),
    Benchmark(
        name="shuffle",
        title="Shuffle quality",
        about="""\
An epoch of 2,900,000 rows in batches of 1,024, R 8192, C 256, in the trainer's order (`train/data/batch_order.py`);
all but the seconds depend on the seed alone. Rank correlations are Spearman's: of store row and position, and of
rows that follow each other. The shares are of all pairs of a batch's rows: how many lie in one range, in one chunk.
Lanes let several readers share a window.""",
        module="tests.benchmarks.store.shuffle_quality",
    ),
)

EXTRACT = (
    Benchmark(
        name="worker",
        title="The accelerator never waits",
        about="""\
The real worker (JPEGs from tars, tokenizers, commits to a store on disk) around a simulated accelerator: nine
teachers, three geometries, two tokenizers, 512 wide, whose forward pass waits a stated time for each row without the
interpreter's lock. The host's CPU time per pair is measured first, with a device that takes no time; the device then
takes 0.5 (decode- and text-bound) or 1.1 (device-bound) times that per core. *Ideal* is min(1 / device time, cores /
host CPU time). The steady part counts, from the second range's commit to the third last's. *Two workers* share the
device, as with `gpus_per_worker: 0.5`. `--before COMMIT` runs an earlier worker in turns.""",
        module="tests.benchmarks.extract.pipeline",
        quick=("--mix", "device_bound"),
        minutes=3,
    ),
    Benchmark(
        name="plan-truth",
        title="The truth of plan",
        about="""\
The forecast of `extract plan` after a probe of ten seconds beside the run, for the same simulated accelerator, one
process. A forecast is to be within 15 %; if one is not, the exit code is 1.""",
        module="tests.benchmarks.extract.plan_truth",
        quick=("--mix", "device_bound", "--probe", "2"),
        minutes=3,
    ),
    Benchmark(
        name="planning",
        title="Planning",
        about="""\
A plan over 100,008 units (11,112 ranges, nine teachers) in a folder, each in a new process. *Nothing known*: every
receipt has to be read, as after a driver was killed; *known*: only the listing.""",
        module="tests.benchmarks.extract.planning",
        quick=("--units", "900"),
        minutes=2,
    ),
    Benchmark(
        name="ray",
        title="Extraction on Ray",
        about="""\
Ray beside the plain loop: one worker each, one thread of arithmetic and one of decoding, three of the demo's
teachers, in alternation. *Work* is from the moment the worker is ready to the last receipt. Ray gives its workers
the priority of nice 15; here it is 0. Its daemons may count as *others*.""",
        module="tests.benchmarks.extract.ray_overhead",
        arguments=(*WITH_TEACHERS, "--rows", "8192", "--rounds", "3"),
        quick=("--rows", "128", "--rounds", "1"),
        minutes=3,
        needs=DEMO,
    ),
    Benchmark(
        name="images-storage",
        title="Images on object storage",
        about="""\
Neighbouring images of a tar behind a server on the loopback that waits before each answer: a request for each image
beside blocks of neighbours, on the same connections.""",
        module="tests.benchmarks.extract.object_storage",
        quick=("--images", "50", "--rounds", "1"),
        minutes=0.5,
    ),
    Benchmark(
        name="preprocessing",
        title="Preprocessing",
        about="""\
What comes before the nine teachers of `mmkd`, in their real geometries, one thread, CPU milliseconds, medians.
*Shared* is what a worker's threads do; the device normalises. Every shared pixel is compared with the teacher's own:
if one differs, or sharing saves less than six times, the exit code is 1.""",
        module="tests.benchmarks.extract.preprocessing",
        quick=("--images", "2", "--rounds", "1"),
    ),
    Benchmark(
        name="tokens",
        title="Tokens",
        about="""\
Captions per CPU second of the libraries' own calls (*before*) and of ours (*now*), in one run, and how many captions
have the same ids; drawn captions, one in twelve with something odd.""",
        module="tests.benchmarks.extract.tokens",
        quick=("--captions", "600"),
    ),
    Benchmark(
        name="teachers",
        title="The nine teachers in full size on a CPU",
        about="""\
Random weights in the authors' file formats, loaded by the entries of the pipeline `mmkd`; one thread, float32, four
images or captions per call. The cosines are the smallest ones with the authors' own forward pass; below 0.99999 the
exit code is 1. The caption is short (eleven words). `python -m extract teachers --profile --random-weights` measures
a machine's rates for `extract plan`.""",
        module="tests.benchmarks.extract.full_size_teachers",
        arguments=("--out", "{work}", "--rows", "4", *(part for name in NINE for part in ("--teacher", name))),
        quick=("--rows", "1"),
        minutes=4,
    ),
)

TRAIN = (
    Benchmark(
        name="input-path",
        title="The input path of training",
        about="""\
The real way to batches (rows, images, tokens, targets of nine teachers) around a step that waits a stated time
without the interpreter's lock, from the pixel cache and from the corpus. The host's CPU time per pair is measured
first; the step then takes 1.15 times that per core. *Device waits* is the share of the time in which no step goes
on, *ideal* is min(1 / device time, cores / host CPU time). `--before COMMIT` runs an earlier trainer in turns.
Below: images and tokens per CPU second beside other libraries, JPEGs of 384 x 288.""",
        module="tests.benchmarks.train.waiting",
        quick=("--batch", "256"),
        minutes=3,
        peers=True,
    ),
    Benchmark(
        name="pixel-path",
        title="Pixel path",
        about="""\
From image files to (B, 224, 224, 3) bytes: read, decode, random resized crop of at least 0.9 of the area, bicubic;
drawn JPEGs of 1024 x 768 in random order. CPU seconds are those of all processes. *Cores for that GPU* = pairs/s of
the GPU / images per CPU second, with pairs/s = share x peak / FLOP of a step; peak is 989 TFLOP/s (H100 SXM, bf16,
dense), and **the share of 0.4 is an assumption**.""",
        module="tests.benchmarks.train.pixel_path",
        arguments=("--out", "{work}"),
        quick=("--rows", "64"),
        minutes=1.5,
    ),
    Benchmark(
        name="padding",
        title="Captions without padding",
        about="""\
Steps of 16 pairs with padded and with cut captions, towers of four layers of 256, images of 224 px; CPU time of one
thread, medians in alternation. *Columns* is the share of the padded columns that a batch of 2,048 takes on a card;
FLOPs are those of ViT-B/16 beside a BERT of base size with 256 tokens, or CLIP's own tower with 77. Tokens are
CLIP's. mmkd_demo has eight captions of real articles, drawn with repetition.""",
        module="tests.benchmarks.train.padding",
        arguments=(*WITH_DATA, "--rows", "16"),
        quick=("--rounds", "1", "--rows", "2"),
        minutes=2.5,
        needs=DATA,
    ),
)

EVALUATE = (
    Benchmark(
        name="evaluation",
        title="Evaluation",
        about="""\
Each part runs in a process of its own, on the same drawn features, and what the parts of a task compute is compared.
Zero-shot: 1 M x 512, ten classes; probe: 100,000 x 512, ten classes, nine values of C; retrieval: 20,000 x 20,000;
bootstrap: 1,000 resamples of 10,000 items, three metrics, by scikit-learn 100 resamples, times ten. *More MiB* is by
how much memory grew beyond the inputs. Zero-shot computes here AUROC, average precision, F1, Brier score,
calibration error, a reliability plot and a confusion; CLIP_benchmark computes two accuracies and a recall.""",
        module="tests.benchmarks.evaluate.speed",
        quick=("--small",),
        minutes=4,
        peers=True,
    ),
)

LISTED = (*STORE, *EXTRACT, *TRAIN, *EVALUATE)
