//! Published configurations of encoders of pictures build, with as many parameters as published; sizes that do not fit are refused.

use std::path::Path;

use lathe_ir::Dim;

use crate::error::Fault;
use crate::model::{Config, build_outline};

/// The number of parameters of a configuration, without the statistics of norms.
fn parameters(config: &Config) -> Result<i64, Fault> {
    let module = build_outline(config, &crate::ImportOptions::default())?;
    lathe_ir::verify(&module).expect("a valid module");
    let main = module.function(module.main().expect("main"));
    let weights = main.inputs().iter().filter_map(|&input| {
        let name = main.value(input).name.as_deref()?.strip_prefix(crate::WEIGHT)?;
        let dims = main.ty(input).dims.iter().map(Dim::as_constant);
        (!name.contains("running_")).then(|| dims.product::<Option<i64>>().expect("constant sizes"))
    });
    Ok(weights.sum())
}

#[test]
fn published_encoders_have_their_number_of_parameters() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/configs");
    for (name, expected) in [
        ("vit-b16", 86_567_656),
        ("vit-l16", 304_326_632),
        ("swin-l", 196_532_476),
        ("resnet-152", 60_192_808),
    ] {
        let config = Config::read(&folder.join(format!("{name}.json"))).expect("a configuration");
        assert_eq!(parameters(&config).expect("a model"), expected, "{name}");
    }
}

/// A small Swin whose fields are changed.
fn swin(changes: &str) -> Result<i64, Fault> {
    let fields = r#""model_type": "swin", "embed_dim": 8, "num_heads": [1, 2], "depths": [2, 2], "window_size": 4, "num_labels": 3"#;
    parameters(&Config::parse(format!("{{{fields}, {changes}}}").as_bytes()).expect("JSON"))
}

#[test]
fn pictures_of_any_size_are_padded_to_whole_windows() {
    let whole = swin(r#""image_size": 32, "patch_size": 2"#).expect("whole windows");
    for sizes in [
        r#""image_size": 31, "patch_size": 2"#,
        r#""image_size": [36, 27], "patch_size": 2"#,
        r#""image_size": 30, "patch_size": 3"#,
    ] {
        // Patches of 3 have 5 more values in each of 3 channels, for 8 elements.
        let more = if sizes.contains(r#"patch_size": 3"#) { 5 * 3 * 8 } else { 0 };
        assert_eq!(swin(sizes).expect("padded"), whole + more, "{sizes}");
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    for (changes, expected) in [
        (
            r#""image_size": 8, "patch_size": 2, "num_channels": 1"#,
            "windows of 4 patches on a grid of [2, 2]",
        ),
        (r#""image_size": 2, "patch_size": 4"#, "`patch_size` [4, 4] is larger"),
        (r#""image_size": [1, 2, 3], "patch_size": 4"#, "must have a height and a width"),
        (r#""image_size": 32, "patch_size": 0"#, "`patch_size` is 0"),
    ] {
        let fault = swin(changes).expect_err(changes);
        assert!(fault.reason.contains(expected), "{changes}: {}", fault.reason);
    }
    let timm = Config::parse(br#"{"architecture": "vit_frob_patch16_224"}"#).expect("JSON");
    assert!(parameters(&timm).expect_err("frob").reason.contains("of the sizes tiny, small"));
    let timm = Config::parse(br#"{"architecture": "vit_base_patch16_224"}"#).expect("JSON");
    assert_eq!(parameters(&timm).expect("a model"), 86_567_656);
}
