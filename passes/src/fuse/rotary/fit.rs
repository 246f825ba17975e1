//! Base and scaling of rotary frequencies, from the frequencies alone.

use lathe_ops::position::RotaryScaling;

/// Relative error of frequencies that were computed in f32.
const TOLERANCE: f64 = 2e-5;

/// What frequencies `f[i]` of `2 * f.len()` rotated elements are. `attention` is the factor of cosines and sines, which tells YaRN from
/// Llama 3 where both would give these frequencies. `None` where no formula gives them.
pub(super) fn fit(frequencies: &[f64], attention: f64) -> Option<(Option<f64>, RotaryScaling)> {
    if frequencies.is_empty() || frequencies.iter().any(|f| !f.is_finite() || *f <= 0.0) {
        return None;
    }
    if frequencies.len() == 1 {
        let scaling = if near(frequencies[0], 1.0) { RotaryScaling::None } else { RotaryScaling::Linear };
        return Some((None, scaling));
    }
    candidates(frequencies).into_iter().find_map(|base| {
        let scaling = scaling(frequencies, base, attention)?;
        Some((Some(base), scaling))
    })
}

/// Base of two lists of frequencies of which the length chooses: that for which the shorter contexts' factors are decimals, as
/// configurations write them.
pub(super) fn fit_by_length(a: &[f64], b: &[f64]) -> Option<f64> {
    const BASES: [f64; 10] = [1e4, 5e5, 1e6, 1e5, 5e4, 1.5e5, 2.5e5, 2e5, 5e6, 1e7];
    let sum = |list: &[f64]| list.iter().sum::<f64>();
    let short = if sum(a) >= sum(b) { a } else { b };
    let decimal = |factor: f64| near((factor * 1000.0).round() / 1000.0, factor);
    let fits = |base: f64| curve(base, short.len()).zip(short).all(|(plain, f)| decimal(plain / f));
    let exact = fit(short, 1.0).and_then(|(base, scaling)| base.filter(|_| scaling == RotaryScaling::None));
    exact.or_else(|| BASES.into_iter().find(|base| fits(*base)))
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= TOLERANCE * b.abs()
}

/// `base^(-2i / dims)`.
fn curve(base: f64, half: usize) -> impl Iterator<Item = f64> {
    (0..half).map(move |i| base.powf(-(i as f64) / half as f64))
}

/// The base by the whole curve, by its end and by its start: a ramp between two bands leaves at least one of them.
fn candidates(f: &[f64]) -> Vec<f64> {
    let (half, last) = (f.len() as f64, f.len() - 1);
    let whole = (f[0] / f[last], half / last as f64);
    let (end, start) = ((f[last - 1] / f[last], half), (f[0] / f[1], half));
    [whole, end, start].map(|(ratio, exponent)| short_decimal(ratio.powf(exponent), exponent)).to_vec()
}

/// The shortest decimal that is the base within the rounding of frequencies to f32, of which the base is a power.
fn short_decimal(base: f64, exponent: f64) -> f64 {
    let slack = 1e-6 * exponent;
    for digits in 0..6 {
        let unit = 10f64.powf(base.log10().floor() - f64::from(digits));
        let rounded = (base / unit).round() * unit;
        if (rounded / base - 1.0).abs() <= slack {
            // The unit is no exact power below 1; a whole number is one again.
            return if rounded >= 1.0 { (rounded * 1e6).round() / 1e6 } else { rounded };
        }
    }
    base
}

fn scaling(f: &[f64], base: f64, attention: f64) -> Option<RotaryScaling> {
    let ratios: Vec<f64> = curve(base, f.len()).zip(f).map(|(plain, f)| plain / f).collect();
    let (first, last) = (ratios[0], ratios[ratios.len() - 1]);
    if ratios.iter().all(|ratio| near(*ratio, first)) {
        return Some(if near(first, 1.0) { RotaryScaling::None } else { RotaryScaling::Linear });
    }
    let rises = ratios.windows(2).all(|pair| pair[1] >= pair[0] * (1.0 - TOLERANCE));
    if !near(first, 1.0) || !rises || last <= 1.0 {
        return None;
    }
    // What is left of each frequency: 1 unscaled, `1 / factor` divided, between them the ramp.
    let kept: Vec<(f64, f64)> = ratios
        .iter()
        .enumerate()
        .filter(|(_, ratio)| !near(**ratio, 1.0) && !near(**ratio, last))
        .map(|(i, ratio)| (i as f64, 1.0 / ratio))
        .collect();
    let straight = kept.len() >= 3 && is_line(&kept);
    Some(if !near(attention, 1.0) || straight { RotaryScaling::Yarn } else { RotaryScaling::Llama3 })
}

/// Whether points lie on one line.
fn is_line(points: &[(f64, f64)]) -> bool {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return false };
    let slope = (last.1 - first.1) / (last.0 - first.0);
    points.iter().all(|(x, y)| (first.1 + slope * (x - first.0) - y).abs() <= 1e-3 * y.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(base: f64, half: usize) -> Vec<f64> {
        curve(base, half).map(|f| f64::from(f as f32)).collect()
    }

    /// The formula of Llama 3.1 with factors 1 and 4 of an original length.
    fn llama3(base: f64, half: usize, factor: f64, original: f64) -> Vec<f64> {
        let stretch = |f: f64| {
            let wavelength = 2.0 * std::f64::consts::PI / f;
            let smooth = ((original / wavelength - 1.0) / 3.0).clamp(0.0, 1.0);
            (1.0 - smooth) * f / factor + smooth * f
        };
        plain(base, half).into_iter().map(stretch).collect()
    }

    /// The formula of YaRN with a ramp from `low` to `high`.
    fn yarn(base: f64, half: usize, factor: f64, low: f64, high: f64) -> Vec<f64> {
        let kept = |i: usize| 1.0 - ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        let mix = |(i, f): (usize, f64)| f / factor * (1.0 - kept(i)) + f * kept(i);
        plain(base, half).into_iter().enumerate().map(mix).collect()
    }

    #[test]
    fn each_scaling_is_told_from_the_others() {
        use RotaryScaling::*;
        for base in [10000.0, 500000.0, 1000000.0, 160000.0, 82684.6] {
            for half in [2, 4, 8, 16, 32, 64, 128] {
                assert_eq!(fit(&plain(base, half), 1.0), Some((Some(base), None)), "{base} {half}");
                let divided: Vec<f64> = plain(base, half).iter().map(|f| f / 4.0).collect();
                assert_eq!(fit(&divided, 1.0), Some((Some(base), Linear)), "{base} {half}");
            }
        }
        let cases = [
            (llama3(500000.0, 64, 8.0, 8192.0), 1.0, 500000.0, Llama3),
            (llama3(500000.0, 32, 32.0, 8192.0), 1.0, 500000.0, Llama3),
            (llama3(500000.0, 8, 8.0, 32.0), 1.0, 500000.0, Llama3),
            (llama3(10000.0, 8, 4.0, 32.0), 1.0, 10000.0, Llama3),
            (yarn(10000.0, 8, 4.0, 0.0, 2.0), 1.1386, 10000.0, Yarn),
            (yarn(10000.0, 32, 40.0, 10.0, 23.0), 1.0, 10000.0, Yarn),
            (yarn(1000000.0, 64, 4.0, 20.0, 46.0), 1.1386, 1000000.0, Yarn),
            (yarn(150000.0, 32, 32.0, 8.093, 17.398), 1.3466, 150000.0, Yarn),
        ];
        for (frequencies, attention, base, scaling) in cases {
            assert_eq!(fit(&frequencies, attention), Some((Some(base), scaling)), "{frequencies:?}");
        }
    }

    #[test]
    fn frequencies_of_no_formula_are_left_unnamed() {
        assert_eq!(fit(&[1.0, 0.5, 0.4, 0.1], 1.0), None);
        assert_eq!(fit(&[1.0, 0.0], 1.0), None);
        assert_eq!(fit(&[], 1.0), None);
        assert_eq!(fit(&[1.0, f64::NAN], 1.0), None);
    }

    #[test]
    fn two_lists_have_the_base_of_the_shorter_contexts() {
        let by = |factors: &[f64]| -> Vec<f64> {
            plain(10000.0, factors.len()).iter().zip(factors).map(|(f, factor)| f / factor).collect()
        };
        let short = by(&[1.0, 1.05, 1.1, 1.15]);
        let long = by(&[1.0, 1.6, 2.2, 5.123456]);
        assert_eq!(fit_by_length(&short, &long), Some(10000.0));
        assert_eq!(fit_by_length(&long, &short), Some(10000.0));
        assert_eq!(fit_by_length(&plain(70000.0, 8), &plain(9.0, 8)), Some(9.0));
    }
}
