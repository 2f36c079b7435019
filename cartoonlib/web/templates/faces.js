// The width of the largest face in a photo, as cartoonlib/photos/draw.py finds it: MTCNN (Zhang et al. 2016) in half the
// size, with facenet-pytorch's networks and numbers, so that a photo gets the same scale here and there.
"use strict";

const SMALLEST_FACE = 20; // px
const PASSED = [0.6, 0.7, 0.7]; // probability, after each of the three networks
const SHRINKS = 0.709; // from one level of the pyramid to the next
const CERTAIN = 0.9; // probability that a face is one

/**
 * Width in px of the largest certain face of a picture, 0 without one.
 *
 * run: (name of a network, float32 data, shape) -> its outputs, boxes first, probabilities last, each {data, dims}.
 */
async function faceWidth(picture, run) {
  const longest = Math.max(picture.width, picture.height);
  const small = thumbnail(picture, Math.min(512, Math.trunc(longest / 2)));
  if (Math.min(small.width, small.height) < SMALLEST_FACE) return 0;
  const faces = (await detected(small, run)).filter(face => face.score > CERTAIN);
  return (Math.max(0, ...faces.map(({ box }) => box[2] - box[0])) * longest) / Math.max(small.width, small.height);
}

/** Pillow's Image.thumbnail, bilinear: the picture within a square of `side` px. */
function thumbnail(picture, side) {
  const { width, height } = picture, aspect = width / height;
  if (side >= width && side >= height) return picture;
  const nearest = (value, miss) => {
    const [low, high] = [Math.floor(value), Math.ceil(value)];
    return Math.max(1, miss(high) < miss(low) ? high : low);
  };
  const size = aspect <= 1
    ? [nearest(side * aspect, n => Math.abs(aspect - n / side)), side]
    : [side, nearest(side / aspect, n => (n === 0 ? 0 : Math.abs(aspect - side / n)))];
  return shrink(picture, ...size, BILINEAR, 2);
}

/** All faces, as {box: [left, top, right, bottom], score}. */
async function detected(picture, run) {
  let boxes = await proposed(picture, run);
  for (const [name, side] of [["refine", 24], ["output", 48]]) {
    boxes = boxes.map(squared).filter(face => whole(face, picture).every((span, i) => span > 0 || i < 2));
    if (!boxes.length) return [];
    const crops = boxes.map(face => area(picture, ...whole(face, picture), side, side));
    const input = new Float32Array(crops.length * 3 * side * side);
    crops.forEach((crop, i) => input.set(crop, i * crop.length));
    const outputs = await run(name, input, [boxes.length, 3, side, side]);
    const moves = outputs[0], scores = outputs.at(-1); // between them the last network has points
    const found = boxes.map(({ box }, i) => (
      { box, score: scores.data[2 * i + 1], move: [...moves.data.subarray(4 * i, 4 * i + 4)] }
    )).filter(face => face.score > PASSED[side === 24 ? 1 : 2]);
    boxes = side === 24 ? apart(found, 0.7).map(moved) : apart(found.map(moved), 0.7, true);
  }
  return boxes;
}

/** Where the first network, on a pyramid of the picture, sees something like a face. */
async function proposed(picture, run) {
  const { width, height } = picture, found = [];
  let scale = 12 / SMALLEST_FACE;
  for (let short = Math.min(width, height) * scale; short >= 12; short *= SHRINKS, scale *= SHRINKS) {
    const size = [height, width].map(side => Math.trunc(side * scale + 1));
    const [moves, scores] = await run("propose", area(picture, 0, 0, width, height, ...size), [1, 3, ...size]);
    const [, , rows, columns] = scores.dims, count = rows * columns, level = [];
    for (let i = 0; i < count; i++) {
      const score = scores.data[count + i];
      if (score < PASSED[0]) continue;
      const [x, y] = [i % columns, Math.trunc(i / columns)].map(place => 2 * place);
      const box = [x + 1, y + 1, x + 12, y + 12].map(place => Math.floor(place / scale));
      level.push({ box, score, move: [0, 1, 2, 3].map(side => moves.data[side * count + i]) });
    }
    found.push(...apart(level, 0.5));
  }
  return apart(found, 0.7).map(({ box, score, move }) => {
    const sides = [box[2] - box[0], box[3] - box[1]];
    return { box: box.map((place, i) => place + move[i] * sides[i % 2]), score };
  });
}

/** The most probable boxes, without those that overlap one of them by more than a share of both, or of the smaller. */
function apart(faces, most, ofSmaller = false) {
  const edge = ofSmaller ? 1 : 0; // px that a box is wider than its corners lie apart: facenet-pytorch has both
  const size = ([left, top, right, bottom]) => (right - left + edge) * (bottom - top + edge);
  const kept = [];
  for (const face of [...faces].sort((a, b) => b.score - a.score)) {
    const overlaps = kept.some(({ box }) => {
      const across = Math.min(box[2], face.box[2]) - Math.max(box[0], face.box[0]) + edge;
      const down = Math.min(box[3], face.box[3]) - Math.max(box[1], face.box[1]) + edge;
      const both = Math.max(0, across) * Math.max(0, down), sizes = [size(box), size(face.box)];
      return both / (ofSmaller ? Math.min(...sizes) : sizes[0] + sizes[1] - both) > most;
    });
    if (!overlaps) kept.push(face);
  }
  return kept;
}

/** A face whose box is moved as a network said. */
function moved({ box, score, move }) {
  const sides = [box[2] - box[0] + 1, box[3] - box[1] + 1];
  return { box: box.map((place, i) => place + move[i] * sides[i % 2]), score };
}

/** A face whose box is a square around the same middle. */
function squared({ box: [left, top, right, bottom], score }) {
  const width = right - left, height = bottom - top, side = Math.max(width, height);
  const [x, y] = [left + width / 2 - side / 2, top + height / 2 - side / 2];
  return { box: [x, y, x + side, y + side], score };
}

/** [left, top, width, height] of the whole pixels of a box that lie in the picture. */
function whole({ box }, { width, height }) {
  const [left, top, right, bottom] = box.map(Math.trunc);
  const [x, y] = [Math.max(1, left) - 1, Math.max(1, top) - 1];
  return [x, y, Math.min(right, width) - x, Math.min(bottom, height) - y];
}

/** A part of a picture as `rows` x `columns` means over areas, what PyTorch calls `area`: three planes in [-1, 1]. */
function area(picture, left, top, width, height, rows, columns) {
  const planes = new Float32Array(3 * rows * columns), { data } = picture;
  for (let row = 0, to = 0; row < rows; row++) {
    const y = top + Math.floor((row * height) / rows), below = top + Math.ceil(((row + 1) * height) / rows);
    for (let column = 0; column < columns; column++, to++) {
      const x = left + Math.floor((column * width) / columns);
      const beyond = left + Math.ceil(((column + 1) * width) / columns);
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (let j = y; j < below; j++) {
          for (let i = x; i < beyond; i++) sum += data[4 * (j * picture.width + i) + c];
        }
        planes[c * rows * columns + to] = (sum / ((below - y) * (beyond - x)) - 127.5) / 128;
      }
    }
  }
  return planes;
}
