//! Codebooks: the codeword of each state.

/// Bits of a state.
pub(super) const STATE_BITS: u32 = 8;
/// States of the trellis, and codewords of a book.
pub(super) const N_STATES: usize = 1 << STATE_BITS;
/// Most bits a step shifts in.
pub const MAX_BITS: u32 = 4;
/// Numbers of values a codeword may have.
pub const WIDTHS: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// Rates by their stored codes: bits of a step, and values of a codeword.
pub const RATES: [(u32, usize); 11] =
    [(1, 32), (1, 16), (1, 8), (1, 4), (1, 2), (3, 4), (1, 1), (3, 2), (2, 1), (3, 1), (4, 1)];

/// How a state becomes a codeword. Its values are numbered by parities of the state, as in trellis-coded
/// quantisation (Marcellin and Fischer, 1990).
struct Labels {
    /// The positive levels in units of 1/1024, the least first; each is there with both signs.
    levels: &'static [u16],
    /// For each value of a codeword the masks of its number's bits, the most significant first: a bit is
    /// the parity of the state's bits under the mask. Numbers count all levels, the least first.
    masks: &'static [u8],
}

/// The books of [`RATES`]; part of the format. Found by search: masks and levels changed at random
/// while what a Gaussian source loses fell. Masks of books of one bit a step have their first and last
/// bit alike, which the search relies on; those of one bit a value are Ungerboeck's (1982).
const LABELS: [Labels; RATES.len()] = [
    Labels {
        levels: &[1024],
        masks: &[
            247, 251, 183, 147, 217, 195, 197, 225, 143, 245, 209, 131, 175, 215, 199, 171, 237,
            179, 169, 221, 167, 151, 173, 217, 165, 149, 201, 181, 175, 183, 221, 205,
        ],
    },
    Labels {
        levels: &[1024],
        masks: &[161, 141, 239, 255, 181, 131, 185, 207, 193, 135, 225, 221, 157, 235, 175, 203],
    },
    Labels { levels: &[1024], masks: &[131, 139, 167, 249, 209, 173, 243, 229] },
    Labels { levels: &[1024], masks: &[225, 163, 159, 205] },
    Labels { levels: &[720, 1210], masks: &[223, 56, 137, 90] },
    Labels { levels: &[344, 1395], masks: &[167, 130, 92, 113, 110, 143, 154, 65] },
    Labels { levels: &[306, 1449], masks: &[157, 86] },
    Labels {
        levels: &[350, 352, 380, 413, 1104, 1161, 1314, 2157],
        masks: &[44, 87, 165, 161, 230, 79, 212, 59],
    },
    Labels { levels: &[200, 612, 1129, 1988], masks: &[110, 181, 36] },
    Labels { levels: &[110, 322, 545, 786, 1059, 1402, 1873, 2599], masks: &[220, 122, 129, 16] },
    Labels {
        levels: &[
            69, 169, 309, 427, 558, 686, 824, 965, 1113, 1271, 1451, 1661, 1914, 2226, 2628, 3227,
        ],
        masks: &[40, 212, 66, 129, 32],
    },
];

/// One codeword of `width` values for every state. Codewords come in opposites, and suit a Gaussian
/// source of power 1 / (1 - 4^-R) at R bits a value; the mean square of those on a path is then about 1.
#[derive(Debug)]
pub struct Codebook {
    pub(super) bits: u32,
    pub(super) width: usize,
    /// What a value is multiplied by to be searched for.
    pub(super) scale: f32,
    /// Codewords of which no two are the same or opposite, in units of 1/8192.
    pub(super) points: Vec<i16>,
    /// Half of the square of each, in units of `1 / unit`.
    pub(super) half_squares: Vec<i16>,
    /// For each state twice the number of its point, plus 1 for the opposite.
    pub(super) rows: [u8; N_STATES],
    /// The codewords one after another.
    words: Vec<f32>,
}

impl Codebook {
    /// The book of a rate, a place in [`RATES`].
    pub fn new(rate: usize) -> Self {
        let ((bits, width), labels) = (RATES[rate], &LABELS[rate]);
        let mut points: Vec<Vec<i16>> = Vec::new();
        let rows = std::array::from_fn(|state| {
            let word = labels.word(state as u8);
            let opposite: Vec<i16> = word.iter().map(|x| -x).collect();
            let known = |p: &[i16]| *p == word || *p == opposite;
            let at = points.iter().position(|p| known(p)).unwrap_or_else(|| {
                points.push(word.clone());
                points.len() - 1
            });
            (2 * at + usize::from(points[at] != word)) as u8
        });
        Self::from_points(bits, width, &points.concat(), rows)
    }

    /// `points` in units of 1/1024.
    fn from_points(bits: u32, width: usize, points: &[i16], rows: [u8; N_STATES]) -> Self {
        // Bits of a cost after its point: as many as leave room for the worst costs that matter.
        let unit = match (bits, width) {
            (4, _) => 10,
            (3, 1) => 9,
            (_, 1 | 2) => 8,
            (_, 32) => 6,
            _ => 7,
        };
        let half_square = |point: &[i16]| {
            let square: i32 = point.iter().map(|x| i32::from(*x).pow(2)).sum();
            (square >> (21 - unit)) as i16
        };
        let words = rows.iter().flat_map(|row| {
            let sign = if row % 2 == 0 { 1.0 } else { -1.0 };
            let point = &points[usize::from(row / 2) * width..][..width];
            point.iter().map(move |x| sign * f32::from(*x) / 1024.0)
        });
        Self {
            bits,
            width,
            scale: f32::from(1u16 << (unit + 3)),
            points: points.iter().map(|x| 8 * x).collect(),
            half_squares: points.chunks_exact(width).map(half_square).collect(),
            words: words.collect(),
            rows,
        }
    }

    /// Bits of a step.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// Values of a codeword.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The codewords of all states, one after another.
    pub fn words(&self) -> &[f32] {
        &self.words
    }
}

impl Labels {
    /// The codeword of a state.
    fn word(&self, state: u8) -> Vec<i16> {
        let n = self.levels.len();
        let number = |masks: &[u8]| {
            masks
                .iter()
                .fold(0, |number, mask| 2 * number + (state & mask).count_ones() as usize % 2)
        };
        let level = |number: usize| match number.checked_sub(n) {
            Some(above) => self.levels[above] as i16,
            None => -(self.levels[n - 1 - number] as i16),
        };
        let masks = self.masks.chunks_exact(n.ilog2() as usize + 1);
        masks.map(|masks| level(number(masks))).collect()
    }
}
