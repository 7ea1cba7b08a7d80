//! Codebooks: the codeword of each state.

/// Bits of a state.
pub(super) const STATE_BITS: u32 = 8;
/// States of the trellis, and codewords of a book.
pub(super) const N_STATES: usize = 1 << STATE_BITS;
/// Values of a codeword, by rate: a step shifts in one bit.
pub(super) const WIDTHS: [usize; 5] = [32, 16, 8, 4, 2];

/// How a state becomes a codeword. Its values are numbered by parities of the state, as in trellis-coded
/// quantisation (Marcellin and Fischer, 1990).
struct Labels {
    /// The positive levels in units of 1/1024, the least first; each is there with both signs.
    levels: &'static [u16],
    /// For each value of a codeword the masks of its number's bits, the most significant first: a bit is
    /// the parity of the state's bits under the mask. Numbers count all levels, the least first.
    masks: &'static [u8],
}

/// The books of [`WIDTHS`]; part of the format. Found by search: masks and levels changed at random
/// while what a Gaussian source loses fell. Masks have their first and last bit alike, which the search
/// relies on.
const LABELS: [Labels; WIDTHS.len()] = [
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
];

/// One codeword for every state. Codewords come in opposites, and suit a Gaussian source of power
/// 1 / (1 - 4^-R) at R bits a value; the mean square of those on a path is then about 1.
#[derive(Debug)]
pub struct Codebook {
    pub(super) width: usize,
    /// What a value of unit power is multiplied by to be searched for.
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
    /// The book of a rate, a place in [`WIDTHS`].
    pub(super) fn new(rate: usize) -> Self {
        let (width, labels) = (WIDTHS[rate], &LABELS[rate]);
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
        Self::from_points(width, &points.concat(), rows)
    }

    /// `points` in units of 1/1024.
    fn from_points(width: usize, points: &[i16], rows: [u8; N_STATES]) -> Self {
        // Bits of a cost after its point: as many as leave room for the worst costs that matter.
        let unit = match width {
            2 => 8,
            32 => 6,
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
        // The best code of rate R is weaker than its input by the share 4^-R. Square roots are exact
        // everywhere, powers are not.
        let lost = (0..width.ilog2()).fold(0.25f64, |lost, _| lost.sqrt());
        let input_rms = (1.0 - lost).sqrt().recip();
        Self {
            width,
            scale: (input_rms * f64::from(1u16 << (unit + 3))) as f32,
            points: points.iter().map(|x| 8 * x).collect(),
            half_squares: points.chunks_exact(width).map(half_square).collect(),
            words: words.collect(),
            rows,
        }
    }

    /// The codewords of all states, one after another.
    pub(super) fn words(&self) -> &[f32] {
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
