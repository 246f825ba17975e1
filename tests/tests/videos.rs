//! Qwen2-VL takes a video as it takes a picture of the same patches: as rows for the tokens that stand for it, and by its positions.
//!
//! The model is in the shared test data (`LATHE_SHARED`, or `../shared` beside the workspace); without it the test says that it is skipped.

use std::path::{Path, PathBuf};

use lathe::{LoadOptions, Session, Tensor};
use lathe_tensor::SplitMix64;

const IMAGE: i64 = 198;
const VIDEO: i64 = 195;
/// Floats of a patch.
const PATCH: usize = 96;

/// Something to be seen: whether it is a video, and frames, rows and columns of patches.
type Seen = (bool, [usize; 3]);

fn model() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let model = std::env::var_os("LATHE_SHARED").map_or(beside, PathBuf::from).join("data/zoo/qwen2-vl/hf");
    model.is_dir().then_some(model)
}

/// The patches of number `index` of what is seen, whatever it is.
fn patches(index: usize, [frames, rows, columns]: [usize; 3]) -> Vec<f32> {
    let mut random = SplitMix64::new(index as u64 + 7);
    (0..frames * rows * columns * PATCH).map(|_| (random.unit() * 2.0 - 1.0) as f32).collect()
}

/// Logits of a text with these in it.
fn logits(session: &mut Session, seen: &[Seen]) -> Vec<f32> {
    let mut ids = vec![5i64, 9];
    let mut pixels = [Vec::new(), Vec::new()];
    let mut grids = [Vec::new(), Vec::new()];
    for (index, &(video, size)) in seen.iter().enumerate() {
        let token = if video { VIDEO } else { IMAGE };
        ids.extend(std::iter::repeat_n(token, size.iter().product::<usize>() / 4));
        ids.extend([11 + index as i64, 23]);
        pixels[usize::from(video)].extend(patches(index, size));
        grids[usize::from(video)].extend(size.map(|size| size as i64));
    }
    let count = ids.len();
    let [images, videos] =
        pixels.map(|pixels| Tensor::from_slice(&pixels, &[pixels.len() / PATCH, PATCH]).expect("patches"));
    let [image_grids, video_grids] =
        grids.map(|grids| Tensor::from_slice(&grids, &[grids.len() / 3, 3]).expect("grids"));
    let ids = Tensor::from_slice(&ids, &[1, count]).expect("ids");
    let mask = Tensor::from_slice(&vec![1i64; count], &[1, count]).expect("a mask");
    let kinds = Tensor::from_slice(&vec![0i32; count], &[1, count]).expect("kinds");
    let inputs = [
        ("input_ids", &ids),
        ("attention_mask", &mask),
        ("mm_token_type_ids", &kinds),
        ("pixel_values", &images),
        ("image_grid_thw", &image_grids),
        ("pixel_values_videos", &videos),
        ("video_grid_thw", &video_grids),
    ];
    let outputs = session.run(&inputs).expect("a run");
    outputs.tensors()[0].to_slice::<f32>().expect("logits").into_owned()
}

#[test]
fn videos_stand_for_their_tokens_as_pictures_do() {
    let Some(model) = model() else {
        eprintln!("SKIPPED: no shared test data (set LATHE_SHARED)");
        return;
    };
    let options = LoadOptions { cache: None, ..LoadOptions::default() };
    let model = lathe::load(&model, &options).expect("the model loads");
    let mut session = Session::new(&model).expect("a session");
    let sizes = [[2, 4, 4], [1, 2, 6], [3, 2, 2]];
    let mut first = None;
    for kinds in [[false; 3], [true; 3], [false, true, false], [true, false, true], [false, false, true]] {
        let seen: Vec<Seen> = kinds.into_iter().zip(sizes).collect();
        let found = logits(&mut session, &seen);
        let expected = first.get_or_insert_with(|| found.clone());
        let worst = found.iter().zip(&*expected).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
        assert!(found.len() == expected.len() && worst < 1e-4, "{kinds:?}: {worst}");
    }
    assert_ne!(logits(&mut session, &[(true, [1, 4, 4])]), logits(&mut session, &[(true, [4, 2, 2])]));
}
