//! Options, which come as JSON: as typed on the command line, under the same names.

use std::path::PathBuf;

use delta_stream::{
    Auto, BaseShift, BaseVector, BitDelta, CompressOptions, Dare, DeltaDct, DeltaDq, Error,
    EtaRule, GroupIndex, HubCache, MapChoice, Method, Parity, Policy, Quality, Rates, Resources,
    Rest, RestoreOptions, Result, SignScale, Size, TraceOf, TraceReference, UltraDelta,
};
use serde::Deserialize;

/// What a run may use.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Use {
    max_memory: Option<u64>,
    threads: Option<usize>,
    io: Option<Io>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Io {
    Read,
    Direct,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Compress {
    method: String,
    /// The method's own.
    settings: Settings,
    name: Option<String>,
    base_shift: Option<PathBuf>,
    lambda: Option<f64>,
    eta: Option<f64>,
    eta_rule: Option<Eta>,
    include: Option<String>,
    exclude: Option<String>,
    rest: Option<RestName>,
    calibrate: Option<PathBuf>,
    seed: u64,
    force: bool,
    resume: bool,
    parity: Option<f64>,
    resources: Use,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Restore {
    name: Option<String>,
    tensors: Vec<String>,
    max_shard_size: Option<u64>,
    force: bool,
    resume: bool,
    resources: Use,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Eta {
    Unbiased,
    LeastSquares,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RestName {
    Keep,
    Base,
}

/// What every method has of its own; each takes those that it knows.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    bits: Option<f64>,
    ratio: Option<f64>,
    max_size: Option<u64>,
    quality: Option<QualityName>,
    patch: Option<u16>,
    allocation: Option<String>,
    rescale: Option<bool>,
    scale: Option<Scale>,
    bit_planes: Option<u8>,
    sparsity: Option<f64>,
    alpha: Option<u32>,
    group: Option<u32>,
    index: Option<Index>,
    parts: Option<u16>,
    step: Option<f64>,
    rates: Option<RatesName>,
    clamp: Option<bool>,
    trace_reference: Option<String>,
    trace_of: Option<TraceOfName>,
    gamma_floor: Option<f64>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum QualityName {
    High,
    Medium,
    Small,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Scale {
    Mean,
    Unbiased,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Index {
    Seed,
    InGroup,
    Csr,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RatesName {
    Code,
    Paper,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum TraceOfName {
    Survivors,
    Delta,
}

fn parse<'t, T: Deserialize<'t>>(text: &'t str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| {
        // Where in the text it stands means nothing to who wrote keywords.
        let text = e.to_string();
        let why = text.split(" at line ").next().unwrap_or_default();
        Error::invalid_argument(format!("an option cannot be taken: {why}"))
    })
}

/// What a run may use.
pub(crate) fn resources(text: &str) -> Result<Resources> {
    Ok(parse::<Use>(text)?.into())
}

impl From<Use> for Resources {
    fn from(given: Use) -> Self {
        let hub = HubCache::from_env(|name| std::env::var_os(name));
        let mut resources = Resources::default().with_hub(Some(hub));
        if let Some(bytes) = given.max_memory {
            resources = resources.with_max_memory(bytes);
        }
        if let Some(threads) = given.threads {
            resources = resources.with_threads(threads.max(1));
        }
        match given.io {
            None | Some(Io::Read) => resources,
            Some(Io::Direct) => resources.with_map(MapChoice::direct()),
        }
    }
}

/// How a fine-tune is compressed.
pub(crate) fn compress(text: &str) -> Result<CompressOptions> {
    let given: Compress = parse(text)?;
    let method = given.settings.method(&given.method)?;
    if method == Method::Lossless && (given.include.is_some() || given.exclude.is_some()) {
        let text = "include and exclude choose lossy tensors; lossless has none";
        return Err(Error::invalid_argument(text));
    }
    let rest = match given.rest {
        None | Some(RestName::Keep) => Rest::Keep,
        Some(RestName::Base) => Rest::Base,
    };
    let policy = Policy::new(given.include.as_deref(), given.exclude.as_deref())?.with_rest(rest);
    let mut options = CompressOptions::new(method)
        .with_policy(policy)
        .with_base_shift(base_shift(&given)?)
        .with_calibrate(given.calibrate)
        .with_seed(given.seed)
        .with_force(given.force)
        .with_resume(given.resume)
        .with_parity(given.parity.map(Parity::percent).transpose()?)
        .with_resources(given.resources.into());
    if let Some(name) = given.name {
        options = options.with_name(name);
    }
    Ok(options)
}

/// How a variant is restored.
pub(crate) fn restore(text: &str) -> Result<RestoreOptions> {
    let given: Restore = parse(text)?;
    Ok(RestoreOptions::default()
        .with_name(given.name)
        .with_tensors(given.tensors)
        .with_max_shard_size(given.max_shard_size)
        .with_force(given.force)
        .with_resume(given.resume)
        .with_resources(given.resources.into()))
}

fn base_shift(given: &Compress) -> Result<Option<BaseShift>> {
    let Some(vector) = &given.base_shift else {
        let idle = given.lambda.is_some() || given.eta.is_some() || given.eta_rule.is_some();
        let text = "lambda_, eta and eta_rule belong to a base_shift";
        return if idle { Err(Error::invalid_argument(text)) } else { Ok(None) };
    };
    let vector = match vector.to_str() {
        Some("own") => BaseVector::Own,
        Some("shared") => BaseVector::Shared,
        _ => BaseVector::External(vector.clone()),
    };
    let rule = match given.eta_rule {
        Some(Eta::LeastSquares) => EtaRule::LeastSquares,
        None | Some(Eta::Unbiased) => EtaRule::Unbiased,
    };
    Ok(Some(BaseShift::new(vector).with_parameters(given.lambda, given.eta).with_rule(rule)))
}

impl Settings {
    /// The method of this name with these settings. One that belongs to another method is refused.
    fn method(&self, name: &str) -> Result<Method> {
        self.refuse_foreign(name)?;
        Ok(match name {
            "auto" => Method::Auto(Auto::default().with_size(self.size()?)),
            "lossless" => Method::Lossless,
            "delta-dct" => Method::DeltaDct(self.delta_dct()?),
            "bitdelta" => Method::BitDelta(self.bit_delta()),
            "deltadq" => Method::DeltaDq(self.delta_dq()?),
            "ultradelta" => Method::UltraDelta(self.ultra_delta()?),
            "dare" => {
                let settings = Dare::default();
                let sparsity = self.sparsity.unwrap_or(settings.sparsity);
                Method::Dare(settings.with_sparsity(sparsity))
            }
            _ => {
                return Err(Error::invalid_argument(format!(
                    "there is no method {name:?}; there are auto, delta-dct, bitdelta, deltadq, \
                     ultradelta, dare and lossless"
                )));
            }
        })
    }

    fn refuse_foreign(&self, name: &str) -> Result<()> {
        let settings: &[(&str, bool, &[&str])] = &[
            ("bits", self.bits.is_some(), &["auto", "deltadq", "ultradelta"]),
            ("ratio", self.ratio.is_some(), &["auto"]),
            ("max_size", self.max_size.is_some(), &["auto"]),
            ("quality", self.quality.is_some(), &["auto"]),
            ("patch", self.patch.is_some(), &["delta-dct"]),
            ("allocation", self.allocation.is_some(), &["delta-dct"]),
            ("rescale", self.rescale.is_some(), &["delta-dct"]),
            ("scale", self.scale.is_some(), &["bitdelta"]),
            ("bit_planes", self.bit_planes.is_some(), &["bitdelta"]),
            ("sparsity", self.sparsity.is_some(), &["dare", "ultradelta"]),
            ("alpha", self.alpha.is_some(), &["deltadq"]),
            ("group", self.group.is_some(), &["deltadq"]),
            ("index", self.index.is_some(), &["deltadq"]),
            ("parts", self.parts.is_some(), &["deltadq"]),
            ("step", self.step.is_some(), &["ultradelta"]),
            ("rates", self.rates.is_some(), &["ultradelta"]),
            ("clamp", self.clamp.is_some(), &["ultradelta"]),
            ("trace_reference", self.trace_reference.is_some(), &["ultradelta"]),
            ("trace_of", self.trace_of.is_some(), &["ultradelta"]),
            ("gamma_floor", self.gamma_floor.is_some(), &["ultradelta"]),
        ];
        let foreign = settings.iter().find(|(_, given, of)| *given && !of.contains(&name));
        let Some((setting, _, of)) = foreign else { return Ok(()) };
        let of = of.join(", ");
        let text = format!("{setting} belongs to method {of}; method {name} does not use it");
        Err(Error::invalid_argument(text))
    }

    fn size(&self) -> Result<Size> {
        let given = [
            self.bits.map(Size::Bits),
            self.ratio.map(Size::Ratio),
            self.max_size.map(Size::Bytes),
            self.quality.map(|quality| {
                Size::Quality(match quality {
                    QualityName::High => Quality::High,
                    QualityName::Medium => Quality::Medium,
                    QualityName::Small => Quality::Small,
                })
            }),
        ];
        let mut given = given.into_iter().flatten();
        match (given.next(), given.next()) {
            (size, None) => Ok(size.unwrap_or(Size::Quality(Quality::High))),
            _ => {
                let text =
                    "bits, ratio, max_size and quality each say how large it may be; give one";
                Err(Error::invalid_argument(text))
            }
        }
    }

    /// Bits of a code, where a fraction means nothing.
    fn code_bits(&self, default: u8) -> Result<u8> {
        match self.bits {
            None => Ok(default),
            Some(bits) if bits.fract() == 0.0 && (0.0..=255.0).contains(&bits) => Ok(bits as u8),
            Some(bits) => Err(Error::invalid_argument(format!(
                "bits {bits}: codes have a whole number of bits, 1 to 8; method auto takes fractions"
            ))),
        }
    }

    fn delta_dct(&self) -> Result<DeltaDct> {
        let mut settings = DeltaDct::default();
        if let Some(patch) = self.patch {
            settings = settings.with_patch(patch);
        }
        if let Some(allocation) = &self.allocation {
            settings = settings.with_allocation(allocation.parse()?);
        }
        if let Some(rescale) = self.rescale {
            settings = settings.with_rescale(rescale);
        }
        Ok(settings)
    }

    fn bit_delta(&self) -> BitDelta {
        let mut settings = BitDelta::default();
        if let Some(scale) = self.scale {
            settings = settings.with_scale(match scale {
                Scale::Mean => SignScale::Mean,
                Scale::Unbiased => SignScale::Unbiased,
            });
        }
        if let Some(planes) = self.bit_planes {
            settings = settings.with_planes(planes);
        }
        settings
    }

    fn delta_dq(&self) -> Result<DeltaDq> {
        let settings = DeltaDq::default();
        let index = match self.index {
            None | Some(Index::Seed) => GroupIndex::Seed,
            Some(Index::InGroup) => GroupIndex::InGroup,
            Some(Index::Csr) => GroupIndex::Csr,
        };
        Ok(settings
            .with_alpha(self.alpha.unwrap_or(settings.alpha))
            .with_group(self.group)
            .with_bits(self.code_bits(settings.bits)?)
            .with_index(index, self.parts.unwrap_or(settings.parts)))
    }

    fn ultra_delta(&self) -> Result<UltraDelta> {
        let settings = UltraDelta::default();
        let rates = match self.rates {
            None => settings.rates,
            Some(RatesName::Code) => Rates::Code,
            Some(RatesName::Paper) => Rates::Paper,
        };
        let of = match self.trace_of {
            None => settings.trace_of,
            Some(TraceOfName::Survivors) => TraceOf::Survivors,
            Some(TraceOfName::Delta) => TraceOf::Delta,
        };
        let reference = match &self.trace_reference {
            None => settings.trace_reference,
            Some(text) => trace_reference(text)?,
        };
        let sparsity = self.sparsity.unwrap_or(settings.sparsity);
        Ok(settings
            .with_bits(self.code_bits(settings.bits)?)
            .with_sparsity(sparsity, self.step.unwrap_or(settings.step))
            .with_rates(rates, self.clamp == Some(true))
            .with_trace(reference, of, self.gamma_floor.unwrap_or(settings.gamma_floor)))
    }
}

/// `none`, `archive`, or a number.
fn trace_reference(text: &str) -> Result<TraceReference> {
    match text {
        "none" => Ok(TraceReference::None),
        "archive" => Ok(TraceReference::Archive),
        _ => text.parse().map(TraceReference::Value).map_err(|_| {
            Error::invalid_argument(format!(
                "trace_reference {text}: it is none, archive, or a number above 0"
            ))
        }),
    }
}
