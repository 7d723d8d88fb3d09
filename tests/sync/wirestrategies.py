"""Random bundles, messages and vectors as a sender may make them."""

from hypothesis import strategies as st

from mycomesh.sync.crdt.hlc import HLC_MAX
from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.errors import DecodeError
from mycomesh.sync.wire import messages as wire
from mycomesh.sync.wire.bundle import Bundle, Group, Kind, Section

sites = st.sampled_from([bytes([number]) * 16 for number in (1, 2, 3, 255)])
names = st.text(min_size=1, max_size=6)
cells = st.one_of(
    st.none(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.binary(max_size=5),
)
keys = st.one_of(st.integers(-(1 << 63), (1 << 63) - 1), st.binary(min_size=1, max_size=9))
hlcs = st.integers(1, HLC_MAX)


@st.composite
def groups(draw):
    kind = draw(st.sampled_from(Kind))
    columns = () if kind is Kind.DELETE else tuple(sorted(draw(st.sets(names, max_size=4))))
    clocks = sorted(draw(st.sets(hlcs, min_size=1, max_size=4)))
    count = len(clocks)

    def one_each(strategy):
        return st.lists(strategy, min_size=count, max_size=count)

    part = st.tuples(
        st.none() if not columns else st.one_of(st.none(), st.lists(st.sampled_from(columns), max_size=3).map(tuple)),
        sites,
        st.integers(0, HLC_MAX),
    )
    return Group(
        draw(sites),
        kind,
        columns,
        clocks,
        draw(st.none() | one_each(keys)),
        draw(one_each(st.lists(cells, min_size=len(columns), max_size=len(columns)))),
        draw(st.none() | one_each(st.lists(part, max_size=2))),
    )


@st.composite
def sections(draw):
    ranges = []
    for site in draw(st.lists(sites, max_size=3)):
        after, upto = sorted((draw(st.integers(0, HLC_MAX)), draw(st.integers(0, HLC_MAX))))
        ranges.append((site, after, upto))
    return Section(draw(names), ranges, draw(st.lists(groups(), max_size=3)))


bundles = st.lists(sections(), max_size=3).map(Bundle)


@st.composite
def vectors(draw):
    vector = Vector()
    for site in draw(st.lists(sites, max_size=3)):
        after, upto = sorted((draw(st.integers(0, HLC_MAX)), draw(st.integers(0, HLC_MAX))))
        vector.add(site, after, upto)
    return vector


clocks = st.integers(0, HLC_MAX - 1_000)
widths = st.integers(1, 1_000)
named_vectors = st.lists(st.tuples(names, vectors()), max_size=3).map(tuple)
long_messages = st.one_of(
    st.builds(wire.Vectors, named_vectors),
    st.builds(wire.Done, named_vectors, named_vectors),
    st.builds(wire.CoverageReply, sites, st.lists(st.tuples(names, hlcs), max_size=3).map(tuple)),
)
nodes = st.lists(st.integers(0, 4_160), max_size=4, unique=True).map(sorted).map(tuple)
messages = st.one_of(
    st.builds(wire.Part, long_messages),
    st.builds(
        wire.AreaDigests,
        names,
        nodes,
        nodes.map(lambda found: tuple((node, bytes(16)) for node in found)),
        nodes,
        st.lists(
            st.tuples(
                st.text(min_size=1, max_size=5), st.binary(min_size=8, max_size=8), st.binary(min_size=16, max_size=16)
            ),
            max_size=3,
        ).map(tuple),
        answer=st.booleans(),
    ),
    st.builds(
        wire.Digests,
        st.lists(
            st.tuples(names, st.binary(min_size=8, max_size=8), st.binary(min_size=16, max_size=16)), max_size=3
        ).map(tuple),
        st.booleans(),
    ),
    st.builds(wire.Vectors, named_vectors),
    st.builds(wire.Chunk, st.binary(max_size=30)),
    st.builds(wire.Ack, st.integers(1, 1_024)),
    st.builds(wire.Done, named_vectors, named_vectors),
    st.builds(wire.TableSketch, names, st.binary(min_size=8, max_size=8), st.binary(max_size=33)),
    st.builds(wire.RepairRequest, names, st.lists(st.binary(min_size=5, max_size=5), max_size=3).map(b"".join)),
    st.builds(wire.RepairRows, st.binary(max_size=30), st.booleans()),
    st.builds(wire.RepairRows, st.binary(min_size=1, max_size=5).map(lambda data: data * 5_000), st.booleans()),
    st.builds(wire.Plan, st.integers(0, (1 << 63) - 1)),
    st.builds(wire.CoverageRequest, sites, clocks),
    st.builds(wire.CoverageReply, sites, st.lists(st.tuples(names, hlcs), max_size=3).map(tuple)),
    st.builds(wire.CoverageReply, sites, st.lists(st.tuples(names, st.just(HLC_MAX)), max_size=3).map(tuple), clocks),
    st.builds(
        lambda name, site, after, width: wire.AuditRequest(name, site, after, after + width),
        names,
        sites,
        clocks,
        widths,
    ),
    st.builds(
        lambda name, site, after, runs, more: wire.AuditReply(
            name, site, after, after + sum(runs) - len(runs) // 2 + more, tuple(runs)
        ),
        names,
        sites,
        clocks,
        st.lists(st.integers(1, 9), max_size=6).map(lambda runs: runs[: len(runs) // 2 * 2]),
        st.integers(0, 9),
    ),
)


def fault(decode, data):
    """Return the decoder's objection to these bytes, or None; an error that is not the decoder's passes through."""
    try:
        decode(data)
    except DecodeError as error:
        return str(error)
    return None


@st.composite
def spoiled(draw, value):
    """The decoded form of a valid item with one place of it replaced, dropped or doubled."""
    hostile = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 3),
        st.integers((1 << 63) - 2, (1 << 64) - 1),
        st.floats(),
        st.text(max_size=3),
        st.binary(max_size=17),
        st.just([]),
        st.just({}),
        st.just([[[[[[]]]]]]),
    )
    places = list(_places(value))
    holder, at = draw(st.sampled_from(places))
    match draw(st.sampled_from(["replace", "drop", "double"])):
        case "replace":
            holder[at] = draw(hostile)
        case "drop":
            del holder[at]
        case _:
            holder.insert(at, holder[at])
    return value


def _places(value):
    for at, item in enumerate(value):
        yield value, at
        if isinstance(item, list):
            yield from _places(item)
