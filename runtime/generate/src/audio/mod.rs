//! Sound to what Whisper takes: the logarithm of a mel spectrogram, as its feature extractor makes it (Radford et al., 2022).

use std::path::{Path, PathBuf};

use lathe_tensor::{Tensor, TensorError};
use rustfft::FftPlanner;
use rustfft::num_complex::Complex;
use serde_json::Value;

/// Samples of a file at most: an hour and a half at 48 kHz.
const MAX_SAMPLES: usize = 1 << 28;
/// Half the width of the resampling filter, in zero crossings.
const CROSSINGS: f64 = 16.0;

/// What can go wrong with sound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SoundError {
    /// A file that cannot be read.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A configuration that makes no sense.
    #[error("preprocessor_config.json: `{field}` is {value}: expected {expected}")]
    Config {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What it should be.
        expected: &'static str,
    },
    /// A tensor could not be made.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// Reads a WAV file: one channel, the average of those it has, at `rate` samples a second.
///
/// # Errors
/// A file that is no WAV file, or too long.
pub fn read_wav(path: &Path, rate: u32) -> Result<Vec<f32>, SoundError> {
    let fail = |reason: String| SoundError::File { path: path.to_path_buf(), reason };
    let mut reader = hound::WavReader::open(path).map_err(|error| fail(error.to_string()))?;
    let spec = reader.spec();
    if spec.channels == 0 || spec.sample_rate == 0 || reader.len() as usize > MAX_SAMPLES {
        return Err(fail(format!(
            "{} samples of {} channels at {} Hz",
            reader.len(),
            spec.channels,
            spec.sample_rate
        )));
    }
    let samples: Result<Vec<f32>, hound::Error> = match spec.sample_format {
        hound::SampleFormat::Float => reader.samples::<f32>().collect(),
        hound::SampleFormat::Int => {
            let full = 2f32.powi(i32::from(spec.bits_per_sample) - 1);
            reader.samples::<i32>().map(|sample| sample.map(|sample| sample as f32 / full)).collect()
        }
    };
    let samples = samples.map_err(|error| fail(error.to_string()))?;
    let channels = usize::from(spec.channels);
    let mono: Vec<f32> =
        samples.chunks_exact(channels).map(|frame| frame.iter().sum::<f32>() / channels as f32).collect();
    Ok(resample(&mono, spec.sample_rate, rate))
}

/// The samples at another rate: a sinc under a Hann window, as narrow as the lower of the two rates asks for.
fn resample(samples: &[f32], from: u32, to: u32) -> Vec<f32> {
    if from == to || samples.is_empty() {
        return samples.to_vec();
    }
    let ratio = f64::from(to) / f64::from(from);
    let cutoff = ratio.min(1.0);
    let reach = CROSSINGS / cutoff;
    let count = (samples.len() as f64 * ratio).round() as usize;
    let sample = |index: usize| {
        let center = index as f64 / ratio;
        let first = (center - reach).ceil().max(0.0) as usize;
        let last = ((center + reach).floor() as usize).min(samples.len() - 1);
        let weigh = |place: usize| {
            let x = (place as f64 - center) * cutoff;
            let angle = std::f64::consts::PI * x;
            let sinc = if x == 0.0 { 1.0 } else { angle.sin() / angle };
            cutoff * sinc * (0.5 + 0.5 * (angle / CROSSINGS).cos()) * f64::from(samples[place])
        };
        (first..=last).map(weigh).sum::<f64>() as f32
    };
    (0..count).map(sample).collect()
}

/// Makes log-mel spectrograms.
#[derive(Clone, Debug, PartialEq)]
pub struct MelSpectrogram {
    window: usize,
    hop: usize,
    mels: usize,
    rate: usize,
    samples: usize,
}

impl MelSpectrogram {
    /// From the `preprocessor_config.json` of a Whisper model.
    ///
    /// # Errors
    /// [`SoundError::Config`].
    pub fn from_config(config: &Value) -> Result<Self, SoundError> {
        let field = |field: &'static str, default: u64, most: u64| {
            let value = config[field].as_u64().unwrap_or(default);
            match (1..=most).contains(&value) {
                true => Ok(value as usize),
                false => Err(SoundError::Config { field, value, expected: "a sensible size" }),
            }
        };
        let rate = field("sampling_rate", 16_000, 192_000)?;
        Ok(Self {
            window: field("n_fft", 400, 1 << 16)?,
            hop: field("hop_length", 160, 1 << 16)?,
            mels: field("feature_size", 80, 1 << 10)?,
            rate,
            samples: match config["n_samples"].is_u64() {
                true => field("n_samples", 0, 600 * rate as u64)?,
                false => field("chunk_length", 30, 600)? * rate,
            },
        })
    }

    /// Samples a second.
    pub fn rate(&self) -> u32 {
        self.rate as u32
    }

    /// Samples of one spectrogram.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// The spectrogram of the first [`Self::samples`] samples, with silence behind them: `[1, mels, frames]`.
    ///
    /// # Errors
    /// Where the tensor cannot be made.
    pub fn features(&self, sound: &[f32]) -> Result<Tensor, SoundError> {
        let mut padded = sound[..sound.len().min(self.samples)].to_vec();
        padded.resize(self.samples, 0.0);
        let frames = self.samples / self.hop;
        let filters = self.filters();
        let fft = FftPlanner::<f64>::new().plan_fft_forward(self.window);
        let turn = std::f64::consts::TAU / self.window as f64;
        let hann: Vec<f64> = (0..self.window).map(|i| 0.5 - 0.5 * (turn * i as f64).cos()).collect();
        let mut values = vec![0.0f64; self.mels * frames];
        let mut buffer = vec![Complex::default(); self.window];
        for frame in 0..frames {
            let start = (frame * self.hop) as i64 - (self.window / 2) as i64;
            for (index, (slot, weight)) in buffer.iter_mut().zip(&hann).enumerate() {
                let sample = padded[mirrored(start + index as i64, padded.len())];
                *slot = Complex::new(f64::from(sample) * weight, 0.0);
            }
            fft.process(&mut buffer);
            for (mel, (first, weights)) in filters.iter().enumerate() {
                let bins = buffer[*first..].iter().zip(weights);
                let power: f64 = bins.map(|(value, weight)| value.norm_sqr() * weight).sum();
                values[mel * frames + frame] = power.max(1e-10).log10();
            }
        }
        // Nothing lies more than 80 dB below the loudest.
        let floor = values.iter().copied().fold(f64::NEG_INFINITY, f64::max) - 8.0;
        let values: Vec<f32> = values.iter().map(|value| ((value.max(floor) + 4.0) / 4.0) as f32).collect();
        Ok(Tensor::from_slice(&values, &[1, self.mels, frames])?)
    }

    /// Triangles on the mel scale, each of the same area (Slaney): the first bin and the weights from there.
    fn filters(&self) -> Vec<(usize, Vec<f64>)> {
        let top = mel(self.rate as f64 / 2.0);
        let corner = |index: usize| hertz(top * index as f64 / (self.mels + 1) as f64);
        let bins = self.window / 2 + 1;
        let frequency = |bin: usize| bin as f64 * self.rate as f64 / 2.0 / (bins - 1).max(1) as f64;
        let filter = |index: usize| {
            let (low, middle, high) = (corner(index), corner(index + 1), corner(index + 2));
            let weight = |bin: usize| {
                let rise = (frequency(bin) - low) / (middle - low);
                let fall = (high - frequency(bin)) / (high - middle);
                rise.min(fall).max(0.0) * 2.0 / (high - low)
            };
            let first = (0..bins).find(|bin| frequency(*bin) > low).unwrap_or(bins);
            let end = (first..bins).find(|bin| frequency(*bin) >= high).unwrap_or(bins);
            (first, (first..end).map(weight).collect())
        };
        (0..self.mels).map(filter).collect()
    }
}

/// A place beyond the ends, mirrored at the end samples.
fn mirrored(place: i64, length: usize) -> usize {
    let last = length as i64 - 1;
    if last <= 0 {
        return 0;
    }
    let place = place.rem_euclid(2 * last);
    (if place > last { 2 * last - place } else { place }) as usize
}

/// Hertz to mels: linear up to 1000 Hz, then logarithmic (Slaney).
fn mel(hertz: f64) -> f64 {
    if hertz < 1000.0 { 3.0 * hertz / 200.0 } else { 15.0 + (hertz / 1000.0).ln() * 27.0 / 6.4f64.ln() }
}

fn hertz(mel: f64) -> f64 {
    if mel < 15.0 { 200.0 * mel / 3.0 } else { 1000.0 * ((mel - 15.0) * 6.4f64.ln() / 27.0).exp() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Values by NumPy, with filters, window and padding as transformers' feature extractor has them.
    #[test]
    fn spectrograms_are_those_of_numpy() {
        let whisper = json!({"n_fft": 400, "hop_length": 160, "feature_size": 80, "chunk_length": 1});
        let maker = MelSpectrogram::from_config(&whisper).unwrap();
        let sound: Vec<f32> = (0..12_000)
            .map(|i| {
                let t = i as f64 / 16_000.0;
                (0.5 * (2.0 * std::f64::consts::PI * 440.0 * t).sin()
                    + 0.1 * (2.0 * std::f64::consts::PI * 3000.0 * t).cos()) as f32
            })
            .collect();
        let tensor = maker.features(&sound).unwrap();
        assert_eq!(tensor.shape(), [1, 80, 100]);
        let values = tensor.to_slice::<f32>().unwrap().to_vec();
        for (mel, frame, expected) in EXPECTED {
            let found = values[mel * 100 + frame];
            assert!((found - expected).abs() < 1e-4, "{mel} {frame}: {found}, expected {expected}");
        }
    }

    #[test]
    fn tones_survive_resampling() {
        let tone = |rate: f64, count: usize| -> Vec<f32> {
            (0..count).map(|i| (i as f64 / rate * 440.0 * std::f64::consts::TAU).sin() as f32).collect()
        };
        for (from, to) in [(44_100, 16_000), (8_000, 16_000), (48_000, 16_000)] {
            let found = resample(&tone(f64::from(from), from as usize / 5), from, to);
            let wanted = tone(f64::from(to), to as usize / 5);
            assert_eq!(found.len(), wanted.len());
            let inner = 200..wanted.len() - 200;
            let worst = inner.map(|i| (found[i] - wanted[i]).abs()).fold(0.0, f32::max);
            assert!(worst < 2e-3, "{from}: {worst}");
        }
    }

    #[test]
    fn files_are_read_and_odd_ones_refused() {
        let path = std::env::temp_dir().join(format!("lathe-{}.wav", std::process::id()));
        let spec = hound::WavSpec {
            channels: 2,
            sample_rate: 16_000,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut writer = hound::WavWriter::create(&path, spec).unwrap();
        [16_384i16, 0, -32_768, -32_768].into_iter().for_each(|sample| writer.write_sample(sample).unwrap());
        writer.finalize().unwrap();
        assert_eq!(read_wav(&path, 16_000).unwrap(), [0.25, -1.0]);
        std::fs::write(&path, "no sound").unwrap();
        assert!(read_wav(&path, 16_000).unwrap_err().to_string().contains("lathe-"));
        std::fs::remove_file(&path).unwrap();
        assert!(MelSpectrogram::from_config(&json!({"n_fft": 0})).is_err());
        assert_eq!([-2, -1, 0, 4, 5, 9].map(|place| mirrored(place, 5)), [2, 1, 0, 4, 3, 1]);
    }

    /// Mel, frame, value.
    const EXPECTED: [(usize, usize, f32); 12] = [
        (0, 0, 0.983279),
        (11, 0, 1.111596),
        (11, 50, 1.438204),
        (12, 50, 1.293523),
        (17, 3, -0.561796),
        (40, 20, -0.561796),
        (52, 60, -0.561796),
        (53, 60, -0.561796),
        (60, 74, -0.272029),
        (79, 75, -0.172433),
        (30, 76, -0.077863),
        (5, 99, -0.561796),
    ];
}
