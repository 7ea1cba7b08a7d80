//! LoRA adapters against a small base: any configuration, any header of the tensors' file. Input: how, the
//! configuration behind its length, and the header's JSON, which is given as many bytes of data as it asks for,
//! or the whole file.

use delta_stream::fuzzing::{self, FineTune};
use delta_stream::{CompressOptions, ErrorKind, Method, Resources, RestoreOptions, Silent};

use super::input::Input;
use crate::made::{Files, Outcome, Place, Rng, Tensor, encode, shard, tensor, tensors};

/// What PEFT writes.
pub(crate) const CONFIG: &str = r#"{"peft_type":"LORA","r":2,"lora_alpha":4,"bias":"none","use_rslora":true,
"rank_pattern":{"key":3,"layers\\.\\d+\\.c_proj":1},"alpha_pattern":{"a.q":8},"fan_in_fan_out":false,
"modules_to_save":["score"],"base_model_name_or_path":"some/base","init_lora_weights":true,"use_dora":false}"#;

/// Most bytes of data that a header is given.
const MOST: u64 = 1 << 16;
/// Longest error: names are cut off in it.
const MOST_TEXT: usize = 4096;
const NAMES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

/// The input of a configuration and a header.
pub(crate) fn input(how: u8, config: &str, json: &[u8]) -> Vec<u8> {
    let len = (config.len() as u16).to_le_bytes();
    [&[how, 7][..], &len, config.as_bytes(), json].concat()
}

pub(super) fn check(data: &[u8]) {
    if let Err(e) = run(&mut Input::new(data)) {
        panic!("{e}");
    }
}

fn run(input: &mut Input<'_>) -> Outcome {
    let (how, seed) = (input.u8(), input.u8());
    let n = usize::from(input.u16());
    let config = input.take(n);
    let weights = match how & 1 {
        0 => with_data(input.rest(), how / 2 % 4, &mut Rng::new(seed.into())),
        _ => input.rest().to_vec(),
    };
    let base = base();
    let files = Files::from([(NAMES[0].into(), config.to_vec()), (NAMES[1].into(), weights)]);
    let place = Place::new(&base, &files)?;
    let opened = match FineTune::open(&place.ft, &place.base) {
        Ok(opened) => opened,
        Err(e) => {
            let text = e.to_string();
            assert_eq!(e.kind(), ErrorKind::InvalidCheckpoint, "{text}");
            assert!(NAMES.iter().any(|name| text.contains(name)), "no file is named: {text}");
            assert!(text.len() <= MOST_TEXT && !text.contains(char::is_control), "{text}");
            return Ok(());
        }
    };
    let read = read(&opened, &tensors(&base)?, usize::from(seed))?;
    // The verbs read as much as that, and no more.
    if how & 8 == 0 {
        let options = CompressOptions::new(Method::Lossless).with_resources(resources());
        delta_stream::compress(&place.ft, &place.base, &place.archive, &options, &Silent)?;
        let options = RestoreOptions::default().with_resources(resources());
        let restored = tensors(&place.restore(&options)?)?;
        for (name, bytes) in read {
            assert!(restored[&name].2 == bytes, "{name} is restored to other bytes");
        }
    }
    Ok(())
}

fn resources() -> Resources {
    Resources::default().with_threads(1)
}

/// Every tensor, read at once and in two runs, which have to be the same. They are the base's but for their
/// bytes, and what an adapter is not for is as it was.
fn read(
    opened: &FineTune,
    base: &crate::made::Tensors,
    seed: usize,
) -> Outcome<Vec<(String, Vec<u8>)>> {
    let mut out = Vec::new();
    assert_eq!(opened.tensors().len(), base.len());
    for t in opened.tensors() {
        let (dtype, shape, bytes) = &base[&t.name];
        let own: Vec<_> = t.shape.iter().map(|n| *n as usize).collect();
        assert_eq!((t.dtype.name(), &own), (dtype.as_str(), shape));
        let whole = opened.read(t, 0..t.n_bytes)?;
        let width = t.dtype.bits() as u64 / 8;
        let cut = width * (seed as u64 % (t.n_bytes / width + 1));
        let halves = [opened.read(t, 0..cut)?, opened.read(t, cut..t.n_bytes)?].concat();
        assert!(halves == whole, "{} is other bytes in runs", t.name);
        assert_eq!(whole.len(), bytes.len());
        assert!(t.name != NEVER || whole == *bytes, "{} is changed", t.name);
        out.push((t.name.clone(), whole));
    }
    Ok(out)
}

/// The base's tensor whose dtype no adapter of these inputs can have.
const NEVER: &str = "layers.0.never.weight";

/// Matrices of each dtype that is merged and others, square and not; what is no matrix; one without bytes.
fn base() -> Files {
    let mut rng = Rng::new(3);
    let mut float = |name: &str, dtype, shape: &[u64]| -> Tensor {
        let values: Vec<_> = (0..shape.iter().product()).map(|_| rng.value(0.1)).collect();
        tensor(name, dtype, shape, encode(dtype, &values))
    };
    let all = [
        float("m.layers.0.a.q.weight", "F32", &[4, 6]),
        float("m.layers.0.a.key.weight", "BF16", &[5, 5]),
        float("m.layers.0.c_proj.weight", "F16", &[6, 4]),
        float("m.layers.1.a.q.weight", "F64", &[3, 2]),
        float("m.layers.1.conv.weight", "F32", &[2, 2, 3]),
        float("m.layers.1.flat.weight", "F8_E4M3", &[4, 4]),
        float("m.norm.weight", "F32", &[4]),
        float("m.words.weight", "F32", &[7, 3]),
        float("m.none.weight", "F32", &[0, 4]),
        float("score.weight", "BF16", &[2, 4]),
        tensor(NEVER, "U16", &[3, 3], vec![9; 18]),
    ];
    Files::from([("model.safetensors".into(), shard(&all, None, 0))])
}

/// Tensors of an adapter that fit the base and [`CONFIG`], a few of each kind.
pub(crate) fn factors() -> Vec<Vec<Tensor>> {
    let one = |name: &str, dtype: &'static str, shape: [u64; 2]| {
        let width = if dtype == "F32" { 4 } else { 2 };
        let n = (shape[0] * shape[1]) as usize * width;
        tensor(&format!("base_model.model.{name}"), dtype, &shape, vec![0; n])
    };
    vec![
        vec![
            one("m.layers.0.a.q.lora_A.weight", "F32", [2, 6]),
            one("m.layers.0.a.q.lora_B.weight", "F32", [4, 2]),
        ],
        vec![
            one("m.layers.0.a.key.lora_A.default.weight", "BF16", [3, 5]),
            one("m.layers.0.a.key.lora_B.default.weight", "F16", [5, 3]),
            one("score.modules_to_save.weight", "F32", [2, 4]),
        ],
        vec![
            one("layers.0.c_proj.lora_A.weight", "F32", [1, 6]),
            one("layers.0.c_proj.lora_B.weight", "F32", [4, 1]),
            one("layers.1.a.q.lora_A.weight", "F32", [2, 2]),
            one("layers.1.a.q.lora_B.weight", "F32", [3, 2]),
        ],
        vec![
            one("m.words.lora_embedding_A", "F32", [2, 7]),
            one("m.words.lora_embedding_B", "F32", [3, 2]),
            one("m.words.weight", "F16", [7, 3]),
        ],
        vec![
            one("m.none.lora_A.weight", "F32", [2, 4]),
            one("m.none.lora_B.weight", "F32", [0, 2]),
        ],
    ]
}

/// A file of this header, with drawn data: as much as it asks for, a byte less, or one more. What is drawn is
/// no NaN, so that what is merged is what is restored.
fn with_data(json: &[u8], how: u8, rng: &mut Rng) -> Vec<u8> {
    let mut file = [&(json.len() as u64).to_le_bytes(), json].concat();
    let asked = fuzzing::header(&file).map_or(0, |tensors| {
        let end = tensors.iter().map(|t| t.3.end).max();
        end.map_or(0, |end| end.saturating_sub(file.len() as u64))
    });
    let n = asked.min(MOST) as usize;
    file.extend((0..n).map(|_| rng.below(0x3c) as u8));
    match how {
        1 if n > 0 => drop(file.pop()),
        2 => file.push(0),
        _ => {}
    }
    file
}
