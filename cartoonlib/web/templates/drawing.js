// What cartoonlib/photos/draw.py and Pillow compute, for a worker of the page: the sizes, the same resampling, the
// coefficients of the guided filter, and the cartoon as slope * photo + intercept, or as a drawing that is made crisp.
// Pictures are RGBA, 8 bit, row by row; maps and networks' tensors are float32, plane by plane. No network is in this
// file, and nothing of the page.
"use strict";

const MULTIPLE = 4; // of the network: two halvings
const MARGIN = 64; // px around a tile: the network and its filter see 63 px far
const FACE = 100; // px: the width of the largest face in what the network looks at
const VIEW = 512; // px: its short side where no face is found
const LEAST = 64; // px: its short side at least
const AS_IT_IS = 150; // px: the short side of photos that are not made smaller
const SMALLEST = 16; // px: the side of a photo
const AROUND = 6; // px of a drawing that `crisp` needs around what is enlarged
const TURNS = 2, FINEST = 4, CONTRAST = 0.3; // of `crisp`, as in adjust.py

/** A half goes to the even neighbour, as in Python's round(). */
function roundEven(value) {
  const below = Math.floor(value), rest = value - below;
  return rest < 0.5 || (rest === 0.5 && below % 2 === 0) ? below : below + 1;
}

/** The scale that makes the largest face, `face` px wide, FACE px wide; 0 stands for no face. draw.usual_scale. */
function usualScale(height, width, face) {
  const short = Math.min(height, width);
  if (short <= AS_IT_IS) return 1;
  return Math.min(1, face ? Math.max(FACE / face, LEAST / short) : VIEW / short);
}

/** [height, width] of what the network looks at. draw.view_size. */
function viewSize(height, width, scale) {
  return [height, width].map(side => Math.max(Math.min(side, SMALLEST), roundEven(side * Math.min(1, scale))));
}

/** Cut a side into spans, `core` px long at most, that begin at multiples of the network's. draw._spans. */
function spans(length, core) {
  const step = Math.ceil(Math.ceil(length / Math.ceil(length / core)) / MULTIPLE) * MULTIPLE;
  const found = [];
  for (let first = 0; first < length; first += step) found.push([first, Math.min(first + step, length)]);
  return found;
}

// --- resampling as Pillow does it ------------------------------------------------------------------------------------

const sinc = x => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const LANCZOS = { reach: 3, at: x => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0) };
const BILINEAR = { reach: 1, at: x => Math.max(0, 1 - Math.abs(x)) };
const BICUBIC = { // a = -0.5
  reach: 2,
  at(x) {
    x = Math.abs(x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
  },
};

/** For each of `size` new pixels over [0, end) of `length` old ones: the first that it takes from, and the weights. */
function taps(kernel, length, end, size) {
  const scale = Math.fround(end) / size, stretch = Math.max(1, scale), reach = kernel.reach * stretch;
  return Array.from({ length: size }, (_, index) => {
    const centre = (index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const last = Math.min(length, Math.trunc(centre + reach + 0.5));
    const weights = new Float64Array(last - first);
    let sum = 0;
    for (let i = 0; i < weights.length; i++) sum += weights[i] = kernel.at((i + first - centre + 0.5) / stretch);
    for (let i = 0; i < weights.length; i++) weights[i] /= sum;
    return { first, weights };
  });
}

/** Means of squares of across x down px, as Pillow's Image.reduce; those at the far ends may be smaller. */
function reduce({ data, width, height }, across, down) {
  const columns = Math.ceil(width / across), rows = Math.ceil(height / down);
  const made = new Uint8ClampedArray(4 * columns * rows);
  const sums = new Float64Array(4 * columns);
  for (let row = 0; row < rows; row++) {
    const top = row * down, bottom = Math.min(top + down, height);
    sums.fill(0);
    for (let y = top; y < bottom; y++) {
      for (let x = 0, at = 4 * y * width; x < width; x++, at += 4) {
        const to = 4 * Math.trunc(x / across);
        for (let c = 0; c < 4; c++) sums[to + c] += data[at + c];
      }
    }
    for (let column = 0; column < columns; column++) {
      const count = (bottom - top) * (Math.min((column + 1) * across, width) - column * across);
      const half = Math.floor(count / 2), share = Math.floor(2 ** 24 / count); // its integers, which round down a little
      for (let c = 0; c < 4; c++) {
        made[4 * (row * columns + column) + c] = Math.floor(((sums[4 * column + c] + half) * share) / 2 ** 24);
      }
    }
  }
  return { data: made, width: columns, height: rows };
}

const ONE = 2 ** 22; // of the integers that Pillow calculates with where pictures have 8 bits

/** `taps` whose weights are such integers. */
function fixed(...given) {
  return taps(...given).map(({ first, weights }) => (
    { first, weights: weights.map(weight => Math.sign(weight) * Math.floor(Math.abs(weight) * ONE + 0.5)) }
  ));
}

const eightBits = sum => Math.floor(sum / ONE + 0.5); // clipped by the array that takes it

/** Pillow's Image.resize with a reducing_gap, 8 bit between its two passes: the same to the bit. */
function shrink(picture, columns, rows, kernel, gap) {
  const across = Math.max(1, Math.trunc(picture.width / columns / gap));
  const down = Math.max(1, Math.trunc(picture.height / rows / gap));
  const { data, width, height } = across > 1 || down > 1 ? reduce(picture, across, down) : picture;
  if (columns === width && rows === height) return { data, width, height };
  const middle = new Uint8ClampedArray(4 * columns * height);
  const horizontal = fixed(kernel, width, picture.width / across, columns);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < columns; x++, to += 4) {
      const { first, weights } = horizontal[x];
      let r = 0, g = 0, b = 0, a = 0;
      for (let i = 0, at = 4 * (y * width + first); i < weights.length; i++, at += 4) {
        const weight = weights[i];
        r += weight * data[at], g += weight * data[at + 1], b += weight * data[at + 2], a += weight * data[at + 3];
      }
      [r, g, b, a].forEach((sum, c) => (middle[to + c] = eightBits(sum)));
    }
  }
  const made = new Uint8ClampedArray(4 * columns * rows), line = new Float64Array(4 * columns);
  fixed(kernel, height, picture.height / down, rows).forEach(({ first, weights }, row) => {
    line.fill(0);
    weights.forEach((weight, i) => {
      const at = 4 * (first + i) * columns;
      for (let x = 0; x < line.length; x++) line[x] += weight * middle[at + x];
    });
    made.set(line.map(eightBits), row * line.length);
  });
  return { data: made, width: columns, height: rows };
}

/** What the network looks at. */
const viewOf = (photo, columns, rows) => shrink(photo, columns, rows, LANCZOS, 3);

// --- the guided filter -----------------------------------------------------------------------------------------------

/** Float planes in [-1, 1] of a picture, the alpha left out. */
function toPlanes({ data, width, height }) {
  const size = width * height, planes = new Float32Array(3 * size);
  for (let i = 0; i < size; i++) {
    for (let c = 0; c < 3; c++) planes[c * size + i] = data[4 * i + c] / 127.5 - 1;
  }
  return planes;
}

/** Mean over a window of 2 radius + 1 px each way, cut off at the border, of one plane. representations.box_mean. */
function boxMean(plane, width, height, radius) {
  const across = new Float64Array(plane.length), mean = new Float64Array(plane.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const low = Math.max(0, x - radius), high = Math.min(width - 1, x + radius);
      let sum = 0;
      for (let i = y * width + low; i <= y * width + high; i++) sum += plane[i];
      across[y * width + x] = sum / (high - low + 1);
    }
  }
  for (let y = 0; y < height; y++) {
    const low = Math.max(0, y - radius), high = Math.min(height - 1, y + radius), share = 1 / (high - low + 1);
    for (let row = low; row <= high; row++) {
      for (let i = y * width, from = row * width; i < (y + 1) * width; i++, from++) mean[i] += share * across[from];
    }
  }
  return mean;
}

/** Slopes, then intercepts, of a plane. representations.guided_coefficients. */
function coefficients(guide, source, width, height, { radius, eps }) {
  const squares = new Float64Array(guide.length), products = new Float64Array(guide.length);
  for (let i = 0; i < guide.length; i++) {
    squares[i] = guide[i] * guide[i];
    products[i] = guide[i] * source[i];
  }
  const mean = values => boxMean(values, width, height, radius);
  const meanGuide = mean(guide), meanSource = mean(source), meanSquare = mean(squares), meanProduct = mean(products);
  const slope = squares, intercept = products; // whose memory is free again
  for (let i = 0; i < guide.length; i++) {
    const covariance = meanProduct[i] - meanGuide[i] * meanSource[i];
    slope[i] = covariance / (meanSquare[i] - meanGuide[i] * meanGuide[i] + eps);
    intercept[i] = meanSource[i] - slope[i] * meanGuide[i];
  }
  return [mean(slope), mean(intercept)];
}

/**
 * Slopes and intercepts of a tile, six planes, cropped to the tile's core: `core` is [top, bottom, left, right] in it.
 * guide, source: what the network saw and gave, three planes each.
 */
function mapsOf(guide, source, width, height, core, filter) {
  const [top, bottom, left, right] = core, size = width * height, length = (bottom - top) * (right - left);
  const maps = new Float32Array(6 * length);
  for (let c = 0; c < 3; c++) {
    const plane = values => values.subarray(c * size, (c + 1) * size);
    coefficients(plane(guide), plane(source), width, height, filter).forEach((values, kind) => {
      for (let y = top; y < bottom; y++) {
        const row = values.subarray(y * width + left, y * width + right);
        maps.set(row, (3 * kind + c) * length + (y - top) * (right - left));
      }
    });
  }
  return maps;
}

// --- the cartoon -----------------------------------------------------------------------------------------------------

/** Planes in other sizes, by `across` and `down` of the whole: `planes` hold its rows from `from` on, `columns` wide. */
function resampled(planes, count, columns, from, across, down) {
  const width = across.length, held = planes.length / count / columns, wide = new Float32Array(count * held * width);
  for (let line = 0, to = 0; line < count * held; line++) {
    for (let x = 0; x < width; x++, to++) {
      const { first, weights } = across[x];
      let sum = 0;
      for (let i = 0, at = line * columns + first; i < weights.length; i++) sum += weights[i] * planes[at + i];
      wide[to] = sum;
    }
  }
  const made = new Float32Array(count * down.length * width), line = new Float64Array(width);
  for (let row = 0; row < count * down.length; row++) {
    const { first, weights } = down[row % down.length], plane = Math.floor(row / down.length);
    line.fill(0);
    weights.forEach((weight, i) => {
      const at = (plane * held + first + i - from) * width;
      for (let x = 0; x < width; x++) line[x] += weight * wide[at + x];
    });
    made.set(line, row * width);
  }
  return made;
}

/** How many times finer than a drawing, enlarged `ratio` times, the grid of `crisp` is. adjust.finer. */
const finer = ratio => Math.min(FINEST, Math.max(2, Math.ceil(ratio)));

/** What crisp contours change of three planes of a drawing, on a grid that is `times` finer. adjust.crisp. */
function crisp(drawing, columns, times) {
  const rows = drawing.length / 3 / columns, width = times * columns, height = times * rows;
  const large = resampled(
    drawing, 3, columns, 0, taps(BICUBIC, columns, columns, width), taps(BICUBIC, rows, rows, height)
  );
  const soft = large.slice();
  for (let turn = 0; turn < TURNS; turn++) {
    const low = extreme(large, width, height, times, -1), high = extreme(large, width, height, times, 1);
    for (let i = 0; i < large.length; i++) {
      const contrast = high[i] - low[i], share = (large[i] - low[i]) / Math.max(contrast, 1e-3);
      large[i] += Math.min(contrast / CONTRAST, 1) * contrast * share * (1 - share) * (2 * share - 1);
    }
  }
  return large.map((value, i) => value - soft[i]);
}

/** The smallest (sign: -1) or largest (1) in the square of 2 reach + 1 px around each pixel of three planes. */
function extreme(planes, width, height, reach, sign) {
  const across = new Float32Array(planes.length), made = new Float32Array(planes.length).fill(-sign * Infinity);
  for (let row = 0; row < 3 * height; row++) {
    for (let x = 0, at = row * width; x < width; x++) {
      let most = -Infinity;
      for (let i = Math.max(0, x - reach); i <= Math.min(width - 1, x + reach); i++) {
        if (sign * planes[at + i] > most) most = sign * planes[at + i];
      }
      across[at + x] = sign * most;
    }
  }
  for (let row = 0; row < 3 * height; row++) {
    const begin = row - (row % height), low = Math.max(begin, row - reach);
    for (let other = low; other <= Math.min(begin + height - 1, row + reach); other++) {
      for (let to = row * width, at = other * width; to < (row + 1) * width; to++, at++) {
        if (sign * across[at] > sign * made[to]) made[to] = across[at];
      }
    }
  }
  return made;
}

/** Rows of maps `rows` px high, [first, stop), that rows [top, bottom) of a photo `height` px high need. */
function rowsNeeded(rows, height, top, bottom, drawing) {
  const needed = taps(BICUBIC, rows, rows, height), last = needed[bottom - 1], around = drawing ? AROUND : 0;
  return [Math.max(0, needed[top].first - around), Math.min(rows, last.first + last.weights.length + around)];
}

/**
 * Rows [top, bottom) of the cartoon, RGBA: the maps, enlarged (bicubic), on the photo, or of a `drawing` the intercepts
 * alone, made crisp; mixed with the photo by `strength`.
 *
 * photo: these rows alone, RGBA, of a picture width x height px. maps: six planes, of a drawing three, their rows from
 * `from` on, of `rows`, each `columns` px wide.
 */
function applied({ photo, width, height, top, bottom, maps, columns, rows, from, strength, drawing }) {
  const count = drawing ? 3 : 6, size = (bottom - top) * width;
  const enlarge = (planes, times) => resampled(
    planes, count, times * columns, times * from, taps(BICUBIC, times * columns, times * columns, width),
    taps(BICUBIC, times * rows, times * rows, height).slice(top, bottom)
  );
  const enlarged = enlarge(maps, 1);
  if (drawing) {
    const times = finer(Math.max(width / columns, height / rows));
    enlarge(crisp(maps, columns, times), times).forEach((change, i) => (enlarged[i] += change));
  }
  const cartoon = new Uint8ClampedArray(photo.length);
  for (let i = 0, at = 0; i < size; i++, at += 4) {
    for (let c = 0; c < 3; c++) {
      const pixel = photo[at + c] / 127.5 - 1, slope = drawing ? 0 : enlarged[c * size + i];
      const drawn = slope * pixel + enlarged[(count - 3 + c) * size + i];
      cartoon[at + c] = (pixel + strength * (drawn - pixel) + 1) * 127.5;
    }
    cartoon[at + 3] = photo[at + 3];
  }
  return cartoon;
}
