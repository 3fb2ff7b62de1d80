# pragma version 0.4.3
# pragma evm-version cancun
"""
@title The state of `Models` and the rules by which it moves
@notice The caller decides who acts; every function here takes the acting account.
"""

from interfaces import IDatanets

MAX_VERSIONS: constant(uint256) = 16  # Datanets in one run
HASH_REACH: constant(uint256) = 256  # blocks whose hash the EVM still knows
BASIS_POINTS: constant(uint256) = 10_000
LEAST_PLATFORM_BPS: constant(uint256) = 500

datanets: public(immutable(IDatanets))
seed_delay_blocks: public(immutable(uint256))  # blocks between begin and the seed's block
notice_s: public(immutable(uint256))  # seconds of notice before a rise or a new policy

struct DatanetVersion:
    datanet: uint256
    sequence: uint256
    head: bytes32

struct Run:
    owner: address
    number: uint256  # this is the owner's n-th run begun
    recipe: bytes32
    manifest_root: bytes32
    manifest_size: uint256
    method: uint256  # version of the attribution method
    versions: bytes32  # keccak256 of the ABI encoding; the event Begun has them in full
    floor_bps: uint256  # highest data floor among the Datanets
    begun_block: uint256
    seed_block: uint256  # whose hash makes the seed
    retargets: uint256  # how often the seed's block was missed
    seed: bytes32  # zero until drawn
    release: uint256  # zero until released

struct Price:
    input_1k: uint256  # wei per 1,000 input tokens
    output_1k: uint256  # wei per 1,000 output tokens
    request: uint256  # wei per request

struct Policy:  # basis points of a fee, together 10,000
    platform: uint256
    builder: uint256
    node: uint256
    verifiers: uint256
    stakers: uint256
    data: uint256
    base_owner: uint256
    parent: uint256

struct Release:
    owner: address
    run: uint256
    slug: bytes32
    version: uint256  # per owner and slug, from 1
    base: bytes32
    adapter: bytes32
    training_root: bytes32
    training_size: uint256
    deprecated: bool

struct Terms:
    price: Price
    policy: Policy
    effective_at: uint256  # unix seconds
    previous: uint256  # version in force when these were proposed

event Begun:
    run: indexed(uint256)
    owner: indexed(address)
    op: indexed(bytes32)
    number: uint256
    recipe: bytes32
    manifest_root: bytes32
    manifest_size: uint256
    method: uint256
    versions: DynArray[DatanetVersion, MAX_VERSIONS]
    seed_block: uint256

event SeedMissed:
    run: indexed(uint256)
    seed_block: uint256

event SeedDrawn:
    run: indexed(uint256)
    seed: bytes32

event Released:
    release: indexed(uint256)
    run: indexed(uint256)
    owner: indexed(address)
    slug: bytes32
    version: uint256
    base: bytes32
    adapter: bytes32
    training_root: bytes32
    training_size: uint256

event TermsProposed:
    release: indexed(uint256)
    version: uint256
    price: Price
    policy: Policy
    effective_at: uint256

event Deprecated:
    release: indexed(uint256)

# number of runs, the last one's id; only _begin() raises it
run_count: public(uint256)

# number of releases, the last one's id; only _release() raises it
release_count: public(uint256)

# id -> run; _begin() writes it, draw_seed() its seed, _release() its release
runs: public(HashMap[uint256, Run])

# owner -> op -> run; _begin() writes it once
run_of: public(HashMap[address, HashMap[bytes32, uint256]])

# owner -> runs begun; only _begin() raises it
runs_begun: public(HashMap[address, uint256])

# id -> release; _release() writes it, _deprecate() its flag
releases: public(HashMap[uint256, Release])

# owner -> slug -> versions released; only _release() raises it
version_count: public(HashMap[address, HashMap[bytes32, uint256]])

# owner -> slug -> version -> release; _release() writes it once
release_of: public(HashMap[address, HashMap[bytes32, HashMap[uint256, uint256]]])

# release -> version -> terms; _add_terms() writes each once
_terms: HashMap[uint256, HashMap[uint256, Terms]]

# release -> versions of its terms proposed so far; only _add_terms() raises it
terms_count: public(HashMap[uint256, uint256])


@deploy
def __init__(datanets_contract: address, delay_blocks: uint256, notice: uint256):
    assert delay_blocks != 0, "models: no seed delay"
    datanets = IDatanets(datanets_contract)
    seed_delay_blocks = delay_blocks
    notice_s = notice


@internal
def _draw_seed(run: uint256):
    found: Run = self.runs[run]
    assert found.owner != empty(address), "models: unknown run"
    assert found.seed == empty(bytes32), "models: seed drawn before"
    assert block.number > found.seed_block, "models: too early for the seed"
    if block.number - found.seed_block > HASH_REACH:
        self.runs[run].seed_block = block.number + seed_delay_blocks
        self.runs[run].retargets = found.retargets + 1
        log SeedMissed(run=run, seed_block=block.number + seed_delay_blocks)
        return
    seed: bytes32 = sha256(abi_encode(chain.id, self, run, blockhash(found.seed_block)))
    self.runs[run].seed = seed
    log SeedDrawn(run=run, seed=seed)


@internal
def _begin(
    owner: address,
    op: bytes32,
    recipe: bytes32,
    manifest_root: bytes32,
    manifest_size: uint256,
    method: uint256,
    versions: DynArray[DatanetVersion, MAX_VERSIONS],
) -> uint256:
    assert self.run_of[owner][op] == 0, "models: op seen before"
    assert manifest_size != 0, "models: empty manifest"
    floor_bps: uint256 = self._floor_of(versions)
    run: uint256 = self.run_count + 1
    number: uint256 = self.runs_begun[owner] + 1
    self.run_count = run
    self.runs_begun[owner] = number
    self.run_of[owner][op] = run
    self.runs[run] = Run(
        owner=owner,
        number=number,
        recipe=recipe,
        manifest_root=manifest_root,
        manifest_size=manifest_size,
        method=method,
        versions=keccak256(abi_encode(versions)),
        floor_bps=floor_bps,
        begun_block=block.number,
        seed_block=block.number + seed_delay_blocks,
        retargets=0,
        seed=empty(bytes32),
        release=0,
    )
    log Begun(
        run=run,
        owner=owner,
        op=op,
        number=number,
        recipe=recipe,
        manifest_root=manifest_root,
        manifest_size=manifest_size,
        method=method,
        versions=versions,
        seed_block=block.number + seed_delay_blocks,
    )
    return run


@internal
@view
def _floor_of(versions: DynArray[DatanetVersion, MAX_VERSIONS]) -> uint256:
    assert len(versions) != 0, "models: no datanet"
    floor_bps: uint256 = 0
    last: uint256 = 0
    for version: DatanetVersion in versions:
        assert version.datanet > last, "models: datanets not rising"
        last = version.datanet
        sequence: uint256 = 0
        head: bytes32 = empty(bytes32)
        floor_here: uint256 = 0
        sequence, head, floor_here = staticcall datanets.version_of(version.datanet)
        assert sequence == version.sequence and head == version.head, "models: datanet moved"
        floor_bps = max(floor_bps, floor_here)
    return floor_bps


@internal
def _release(
    owner: address,
    run: uint256,
    slug: bytes32,
    base: bytes32,
    adapter: bytes32,
    training_root: bytes32,
    training_size: uint256,
    price: Price,
    policy: Policy,
) -> uint256:
    found: Run = self.runs[run]
    assert found.owner == owner, "models: not the owner"
    assert found.release == 0, "models: released before"
    assert found.seed != empty(bytes32), "models: seed not drawn"
    assert slug != empty(bytes32), "models: no slug"
    assert training_size != 0, "models: empty training set"
    release: uint256 = self.release_count + 1
    version: uint256 = self.version_count[owner][slug] + 1
    self.release_count = release
    self.runs[run].release = release
    self.version_count[owner][slug] = version
    self.release_of[owner][slug][version] = release
    self.releases[release] = Release(
        owner=owner,
        run=run,
        slug=slug,
        version=version,
        base=base,
        adapter=adapter,
        training_root=training_root,
        training_size=training_size,
        deprecated=False,
    )
    log Released(
        release=release,
        run=run,
        owner=owner,
        slug=slug,
        version=version,
        base=base,
        adapter=adapter,
        training_root=training_root,
        training_size=training_size,
    )
    self._add_terms(release, price, policy, block.timestamp, 0)
    return release


@internal
def _propose_terms(
    owner: address, release: uint256, price: Price, policy: Policy
) -> uint256:
    assert self.releases[release].owner == owner, "models: not the owner"
    version: uint256 = self._terms_version(release)
    old: Terms = self._terms[release][version]
    effective_at: uint256 = block.timestamp
    if self._needs_notice(old, price, policy):
        effective_at += notice_s
    return self._add_terms(release, price, policy, effective_at, version)


@internal
def _deprecate(owner: address, release: uint256):
    assert self.releases[release].owner == owner, "models: not the owner"
    assert not self.releases[release].deprecated, "models: deprecated before"
    self.releases[release].deprecated = True
    log Deprecated(release=release)


@internal
def _add_terms(
    release: uint256, price: Price, policy: Policy, effective_at: uint256, previous: uint256
) -> uint256:
    self._check_policy(policy, self.runs[self.releases[release].run].floor_bps)
    version: uint256 = self.terms_count[release] + 1
    self.terms_count[release] = version
    self._terms[release][version] = Terms(
        price=price, policy=policy, effective_at=effective_at, previous=previous
    )
    log TermsProposed(
        release=release, version=version, price=price, policy=policy, effective_at=effective_at
    )
    return version


@internal
@view
def _terms_version(release: uint256) -> uint256:
    latest: uint256 = self.terms_count[release]
    if block.timestamp >= self._terms[release][latest].effective_at:
        return latest
    return self._terms[release][latest].previous


@internal
@pure
def _needs_notice(old: Terms, price: Price, policy: Policy) -> bool:
    rises: bool = (
        price.input_1k > old.price.input_1k
        or price.output_1k > old.price.output_1k
        or price.request > old.price.request
    )
    return rises or keccak256(abi_encode(policy)) != keccak256(abi_encode(old.policy))


@internal
@pure
def _check_policy(policy: Policy, floor_bps: uint256):
    total: uint256 = policy.platform + policy.builder + policy.node + policy.verifiers
    total += policy.stakers + policy.data + policy.base_owner + policy.parent
    assert total == BASIS_POINTS, "models: policy does not sum to 10,000"
    assert policy.platform >= LEAST_PLATFORM_BPS, "models: platform part too low"
    assert policy.data >= floor_bps, "models: data part below the floor"
