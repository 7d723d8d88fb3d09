// Places tables and flows in columns, or in rows on a narrow screen: a flow behind its input, a table behind the flows that write it.

export const BOX = { width: 190, height: 58, gap: 26, step: 296, down: 104 };

// nodes: Map of id -> {id}; wires: [{from, to}]. Returns Map of id -> {x, y}, and the size of the picture.
export function place(nodes, wires, vertical) {
  const depth = new Map([...nodes.keys()].map((id) => [id, 0]));
  // A cycle, which the node refuses, would move its boxes for ever: each pass moves the next ones by one.
  for (let pass = 0; pass < nodes.size; pass += 1) {
    let moved = false;
    for (const { from, to } of wires) {
      const wanted = depth.get(from) + 1;
      if (depth.get(to) >= wanted || wanted > nodes.size) continue;
      depth.set(to, wanted);
      moved = true;
    }
    if (!moved) break;
  }
  // As late as can be, so that a wire does not pass behind other boxes.
  for (const id of [...nodes.keys()].sort((one, two) => depth.get(two) - depth.get(one))) {
    const after = wires.filter((wire) => wire.from === id).map((wire) => depth.get(wire.to));
    if (after.length) depth.set(id, Math.max(depth.get(id), Math.min(...after) - 1));
  }
  const levels = [];
  for (const id of nodes.keys()) (levels[depth.get(id)] ??= []).push(id);
  const spots = new Map();
  let width = 0;
  let height = 0;
  levels.filter(Boolean).forEach((level, at) => {
    // Next to what they come from, so that wires cross less.
    const centre = (id) => {
      const before = wires.filter((wire) => wire.to === id && spots.has(wire.from)).map((wire) => spots.get(wire.from)[vertical ? "x" : "y"]);
      return before.length ? before.reduce((sum, each) => sum + each, 0) / before.length : Number.MAX_SAFE_INTEGER;
    };
    const ordered = level.map((id, number) => [centre(id), number, id]).sort((one, two) => one[0] - two[0] || one[1] - two[1]);
    ordered.forEach(([, , id], row) => {
      const spot = vertical ? { x: 12 + row * (BOX.width + 16), y: 12 + at * BOX.down } : { x: 12 + at * BOX.step, y: 12 + row * (BOX.height + BOX.gap) };
      spots.set(id, spot);
      width = Math.max(width, spot.x + BOX.width + 12);
      height = Math.max(height, spot.y + BOX.height + 12);
    });
  });
  return { spots, width, height };
}

export function wirePath(one, two, vertical) {
  if (vertical) {
    const [x1, y1, x2, y2] = [one.x + BOX.width / 2, one.y + BOX.height, two.x + BOX.width / 2, two.y];
    return { path: `M${x1} ${y1}C${x1} ${y1 + 24} ${x2} ${y2 - 24} ${x2} ${y2}`, x: x2 + 6, y: y2 - 6 };
  }
  const [x1, y1, x2, y2] = [one.x + BOX.width, one.y + BOX.height / 2, two.x, two.y + BOX.height / 2];
  return { path: `M${x1} ${y1}C${x1 + 34} ${y1} ${x2 - 34} ${y2} ${x2} ${y2}`, x: x2 - 6, y: y2 - 6 };
}
