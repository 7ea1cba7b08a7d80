//! The method that was chosen, with its settings.

use std::path::Path;

use clap::ValueEnum;
use delta_stream::{
    Auto, BaseShift, BaseVector, BitDelta, Dare, DeltaDct, DeltaDq, Error, EtaRule, GroupIndex,
    Method, Quality, RatePlan, Rates, Result, SignScale, Size, TraceOf, Tune, UltraDelta,
};

use crate::cli::args::{
    Choice, EtaRuleName, IndexName, MethodName, QualityName, RatesName, ScaleName, Switch,
    TraceOfName, TuneName,
};
use crate::cli::values::GroupSize;
use crate::cli::{hint, score};

/// The method with its settings. A setting of another method is refused rather than ignored.
pub(crate) fn method(choice: &Choice) -> Result<Method> {
    refuse_foreign(choice)?;
    Ok(match choice.method {
        MethodName::Lossless => Method::Lossless,
        MethodName::Auto => Method::Auto(auto(choice)?),
        MethodName::DeltaDct => Method::DeltaDct(delta_dct(choice)),
        MethodName::BitDelta => Method::BitDelta(bit_delta(choice)),
        MethodName::Dare => Method::Dare(dare(choice)),
        MethodName::DeltaDq => Method::DeltaDq(delta_dq(choice)?),
        MethodName::UltraDelta => Method::UltraDelta(ultra_delta(choice)?),
    })
}

/// How the base is shifted, if it is.
pub(crate) fn base_shift(choice: &Choice) -> Result<Option<BaseShift>> {
    let Some(vector) = choice.base_shift.as_ref() else { return Ok(None) };
    let given = [choice.lambda.is_some(), choice.eta.is_some()];
    let idle = [
        ("--eta-rule", choice.eta_rule.is_some() && given[1], "--eta gives it"),
        ("--tune", choice.tune.is_some() && given == [true; 2], "--lambda and --eta give both"),
    ];
    if let Some((flag, _, why)) = idle.iter().find(|(_, is_idle, _)| *is_idle) {
        return Err(Error::invalid_argument(format!("{flag} has nothing to find: {why}")));
    }
    let vector = match vector.to_str() {
        Some("own") => BaseVector::Own,
        Some("shared") => BaseVector::Shared,
        _ => BaseVector::External(vector.clone()),
    };
    let rule = match choice.eta_rule {
        Some(EtaRuleName::LeastSquares) => EtaRule::LeastSquares,
        None | Some(EtaRuleName::Unbiased) => EtaRule::Unbiased,
    };
    let tune = match &choice.tune {
        Some(TuneName::Command(command)) => Tune::Score(score::command(command)),
        None | Some(TuneName::DataFree) => Tune::DataFree,
    };
    let shift = BaseShift::new(vector).with_parameters(choice.lambda, choice.eta);
    Ok(Some(shift.with_rule(rule).with_tune(tune)))
}

/// A flag, whether it is given, and the methods it belongs to.
type Setting = (&'static str, bool, &'static [MethodName]);

/// Every flag that is not for all methods.
fn settings(choice: &Choice) -> [Setting; 21] {
    use MethodName as M;
    [
        ("--patch", choice.patch.is_some(), &[M::DeltaDct]),
        ("--allocation", choice.allocation.is_some(), &[M::DeltaDct]),
        ("--rescale", choice.rescale.is_some(), &[M::DeltaDct]),
        ("--scale", choice.scale.is_some(), &[M::BitDelta]),
        ("--bit-planes", choice.bit_planes.is_some(), &[M::BitDelta]),
        ("--sparsity", choice.sparsity.is_some(), &[M::Dare, M::UltraDelta]),
        ("--alpha", choice.alpha.is_some(), &[M::DeltaDq]),
        ("--group", choice.group.is_some(), &[M::DeltaDq]),
        ("--bits", choice.bits.is_some(), &[M::Auto, M::DeltaDq, M::UltraDelta]),
        ("--ratio", choice.ratio.is_some(), &[M::Auto]),
        ("--max-size", choice.max_size.is_some(), &[M::Auto]),
        ("--quality", choice.quality.is_some(), &[M::Auto]),
        ("--plan", choice.plan.is_some(), &[M::Auto]),
        ("--index", choice.index.is_some(), &[M::DeltaDq]),
        ("--parts", choice.parts.is_some(), &[M::DeltaDq]),
        ("--step", choice.step.is_some(), &[M::UltraDelta]),
        ("--rates", choice.rates.is_some(), &[M::UltraDelta]),
        ("--clamp", choice.clamp.is_some(), &[M::UltraDelta]),
        ("--trace-reference", choice.trace_reference.is_some(), &[M::UltraDelta]),
        ("--trace-of", choice.trace_of.is_some(), &[M::UltraDelta]),
        ("--gamma-floor", choice.gamma_floor.is_some(), &[M::UltraDelta]),
    ]
}

/// What decides how large a method's deltas become.
fn size_flags(method: MethodName) -> &'static [&'static str] {
    match method {
        MethodName::Lossless => &[],
        MethodName::Auto => &["--bits", "--ratio", "--max-size", "--quality", "--plan"],
        MethodName::DeltaDct => &["--allocation"],
        MethodName::BitDelta => &["--bit-planes"],
        MethodName::Dare => &["--sparsity"],
        MethodName::DeltaDq => &["--alpha", "--bits"],
        MethodName::UltraDelta => &["--sparsity", "--bits"],
    }
}

fn refuse_foreign(choice: &Choice) -> Result<()> {
    let settings = settings(choice);
    let is_own = |(_, _, of): &Setting| of.contains(&choice.method);
    let foreign = settings.iter().find(|setting| setting.1 && !is_own(setting));
    let Some((flag, _, of)) = foreign else { return Ok(()) };
    let name =
        |m: &MethodName| m.to_possible_value().map_or(String::new(), |v| v.get_name().to_owned());
    let of: Vec<_> = of.iter().map(name).collect();
    let own = settings.iter().filter(|setting| is_own(setting)).map(|setting| &setting.0[2..]);
    let is_size = MethodName::value_variants().iter().any(|m| size_flags(*m).contains(flag));
    let instead = match (hint::nearest(&flag[2..], own), size_flags(choice.method)) {
        (Some(near), _) => format!("; did you mean --{near}?"),
        (None, sizes) if is_size && !sizes.is_empty() => {
            format!("; its size is set by {}", sizes.join(", "))
        }
        _ => String::new(),
    };
    Err(Error::invalid_argument(format!(
        "{flag} belongs to --method {}; --method {} does not use it{instead}",
        listed(&of),
        name(&choice.method)
    )))
}

/// Names as a sentence has them: commas, and an `and` before the last.
fn listed(names: &[String]) -> String {
    match names {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => names.concat(),
    }
}

fn auto(choice: &Choice) -> Result<Auto> {
    let sizes = [
        ("--bits", choice.bits.is_some()),
        ("--ratio", choice.ratio.is_some()),
        ("--max-size", choice.max_size.is_some()),
        ("--quality", choice.quality.is_some()),
    ];
    if let (Some(_), Some((flag, _))) = (&choice.plan, sizes.iter().find(|(_, given)| *given)) {
        let text = format!("{flag} cannot be used with --plan, which has the rate of every matrix");
        return Err(Error::invalid_argument(text));
    }
    let size = match (choice.bits, choice.ratio, choice.max_size, choice.quality) {
        (Some(bits), ..) => Size::Bits(bits),
        (_, Some(ratio), ..) => Size::Ratio(ratio),
        (_, _, Some(bytes), _) => Size::Bytes(bytes),
        (.., None | Some(QualityName::High)) => Size::Quality(Quality::High),
        (.., Some(QualityName::Medium)) => Size::Quality(Quality::Medium),
        (.., Some(QualityName::Small)) => Size::Quality(Quality::Small),
    };
    let plan = choice.plan.as_deref().map(rate_plan).transpose()?;
    Ok(Auto::default().with_size(size).with_plan(plan))
}

/// The rates in a file that `plan -o` wrote.
fn rate_plan(file: &Path) -> Result<RatePlan> {
    /// All a forecast says but its plan is ignored.
    #[derive(serde::Deserialize)]
    struct Planned {
        plan: Option<RatePlan>,
        /// Of a plan that shares a compress out.
        parts: Option<u32>,
    }
    let text = std::fs::read_to_string(file).map_err(|e| Error::io("read", file, e))?;
    let planned: Planned = serde_json::from_str(&text).map_err(|e| {
        let text = format!(
            "{} is no plan of auto; write one with: delta-stream plan -o FILE",
            file.display()
        );
        Error::invalid_argument(text).with_source(e)
    })?;
    planned.plan.ok_or_else(|| {
        let of = match planned.parts {
            Some(n) => format!("shares a compress out; say which part: --part I/{n}"),
            None => "has no rates, since it is of another method than auto".to_owned(),
        };
        Error::invalid_argument(format!("{} {of}", file.display()))
    })
}

/// Bits of a code, where a fraction means nothing.
fn code_bits(choice: &Choice, default: u8) -> Result<u8> {
    match choice.bits {
        None => Ok(default),
        Some(bits) if bits.fract() == 0.0 && (0.0..=255.0).contains(&bits) => Ok(bits as u8),
        Some(bits) => Err(Error::invalid_argument(format!(
            "--bits {bits}: codes have a whole number of bits, 1 to 8; --method auto takes fractions"
        ))),
    }
}

fn delta_dct(choice: &Choice) -> DeltaDct {
    let mut settings = DeltaDct::default();
    if let Some(patch) = choice.patch {
        settings = settings.with_patch(patch);
    }
    if let Some(allocation) = &choice.allocation {
        settings = settings.with_allocation(allocation.clone());
    }
    if let Some(rescale) = choice.rescale {
        settings = settings.with_rescale(rescale == Switch::On);
    }
    settings
}

fn bit_delta(choice: &Choice) -> BitDelta {
    let mut settings = BitDelta::default();
    if let Some(scale) = choice.scale {
        settings = settings.with_scale(match scale {
            ScaleName::Mean => SignScale::Mean,
            ScaleName::Unbiased => SignScale::Unbiased,
        });
    }
    if let Some(planes) = choice.bit_planes {
        settings = settings.with_planes(planes);
    }
    settings
}

fn dare(choice: &Choice) -> Dare {
    let settings = Dare::default();
    settings.with_sparsity(choice.sparsity.unwrap_or(settings.sparsity))
}

fn delta_dq(choice: &Choice) -> Result<DeltaDq> {
    let settings = DeltaDq::default();
    let index = match choice.index {
        None | Some(IndexName::Seed) => GroupIndex::Seed,
        Some(IndexName::InGroup) => GroupIndex::InGroup,
        Some(IndexName::Csr) => GroupIndex::Csr,
    };
    Ok(settings
        .with_alpha(choice.alpha.unwrap_or(settings.alpha))
        .with_group(choice.group.and_then(GroupSize::number))
        .with_bits(code_bits(choice, settings.bits)?)
        .with_index(index, choice.parts.unwrap_or(settings.parts)))
}

fn ultra_delta(choice: &Choice) -> Result<UltraDelta> {
    let settings = UltraDelta::default();
    let rates = match choice.rates {
        None => settings.rates,
        Some(RatesName::Code) => Rates::Code,
        Some(RatesName::Paper) => Rates::Paper,
    };
    let of = match choice.trace_of {
        None => settings.trace_of,
        Some(TraceOfName::Survivors) => TraceOf::Survivors,
        Some(TraceOfName::Delta) => TraceOf::Delta,
    };
    let sparsity = choice.sparsity.unwrap_or(settings.sparsity);
    Ok(settings
        .with_bits(code_bits(choice, settings.bits)?)
        .with_sparsity(sparsity, choice.step.unwrap_or(settings.step))
        .with_rates(rates, choice.clamp == Some(Switch::On))
        .with_trace(
            choice.trace_reference.unwrap_or(settings.trace_reference),
            of,
            choice.gamma_floor.unwrap_or(settings.gamma_floor),
        ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Args, Verb};
    use clap::{CommandFactory, Parser};
    use delta_stream::{ErrorKind, TraceReference};

    fn choice(line: &str) -> Choice {
        let line = format!("delta-stream plan --shards f --base b -q {line}");
        let args = Args::try_parse_from(line.split_whitespace()).unwrap();
        let Verb::Plan(verb) = args.verb else { panic!("not plan") };
        verb.choice
    }

    #[test]
    fn settings_of_another_method_are_refused_by_name() {
        let foreign = [
            "--patch 8",
            "--allocation 2:1",
            "--rescale on",
            "--scale mean",
            "--bit-planes 2",
            "--sparsity 0.5",
            "--alpha 4",
            "--step 0.1",
            "--trace-reference none",
        ];
        for flag in foreign {
            let error = method(&choice(&format!("--method lossless {flag}"))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            let text = error.to_string();
            let name = flag.split(' ').next().unwrap();
            assert!(text.contains(name) && text.contains("lossless"), "{text}");
        }
        let text = method(&choice("--method bitdelta --bits 2")).unwrap_err().to_string();
        assert!(text.contains("--method auto, deltadq and ultradelta;"), "{text}");
    }

    /// The help of a setting begins with the methods that take it; whatever says so is refused with others.
    #[test]
    fn every_setting_of_some_methods_is_refused_with_the_others() {
        let command = Args::command();
        let plan = command.find_subcommand("plan").unwrap();
        let name = |m: &MethodName| m.to_possible_value().unwrap().get_name().to_owned();
        let methods: Vec<_> = MethodName::value_variants().iter().map(name).collect();
        let mut n_settings = 0;
        for arg in plan.get_arguments() {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            let of = help.split_once(':').map_or("", |(of, _)| of);
            let (Some(flag), true) =
                (arg.get_long(), of.split(", ").all(|m| methods.iter().any(|n| n == m)))
            else {
                continue;
            };
            n_settings += 1;
            let parsed = ["on", "1", "8", "2:1", "none", "mean", "high", "code", "delta", "seed"];
            let line = |value: &str, method: &str| {
                format!("delta-stream plan --shards f --base b --method {method} --{flag} {value}")
            };
            let parse = |value: &&str, method: &str| {
                Args::try_parse_from(line(value, method).split_whitespace()).ok()
            };
            let value = parsed.iter().find(|value| parse(value, "lossless").is_some());
            let value = value.unwrap_or_else(|| panic!("no value fits --{flag}"));
            for m in &methods {
                let Some(Args { verb: Verb::Plan(verb), .. }) = parse(value, m) else {
                    panic!("{flag} with {m}")
                };
                let error = refuse_foreign(&verb.choice).err().map(|e| e.to_string());
                // --bits begins its help anew for the other methods that take it.
                let takes =
                    of.split(", ").chain(help.split(". ").flat_map(|part| {
                        part.split_once(':').map_or("", |(of, _)| of).split(", ")
                    }));
                let is_own = takes.into_iter().any(|own| own == m);
                assert_eq!(error.is_none(), is_own, "--{flag} with {m}: {error:?}");
            }
        }
        assert_eq!(n_settings, settings(&choice("")).len());
    }

    #[test]
    fn a_foreign_setting_leads_to_the_own_one() {
        for (line, words) in [
            ("--method delta-dct --scale mean", "belongs to --method bitdelta"),
            ("--method delta-dct --scale mean", "did you mean --rescale?"),
            ("--method auto --rates code", "did you mean --ratio?"),
            ("--method deltadq --sparsity 0.9", "its size is set by --alpha, --bits"),
            ("--method bitdelta --bits 2", "its size is set by --bit-planes"),
            ("--method dare --patch 8", "does not use it"),
        ] {
            let text = method(&choice(line)).unwrap_err().to_string();
            assert!(text.contains(words), "{line}: {text}");
        }
        let text = method(&choice("--method lossless --bits 2")).unwrap_err().to_string();
        assert!(text.ends_with("does not use it"), "{text}");
    }

    #[test]
    fn a_flag_with_nothing_to_find_is_refused() {
        for (line, flag) in [
            ("--eta 1 --eta-rule unbiased", Some("--eta-rule")),
            ("--lambda 1 --eta 1 --tune data-free", Some("--tune")),
            ("--lambda 1 --eta-rule unbiased --tune data-free", None),
            ("--eta 1 --tune data-free", None),
        ] {
            let found = base_shift(&choice(&format!("--base-shift own {line}")));
            assert_eq!(found.is_ok(), flag.is_none(), "{line}");
            assert!(found.err().is_none_or(|e| e.to_string().contains(flag.unwrap())), "{line}");
        }
    }

    #[test]
    fn ultradelta_takes_all_its_settings() {
        let line = "--method ultradelta --bits 3 --sparsity 0.9 --step 0.02 --rates paper --clamp on \
                    --trace-reference 12.5 --trace-of delta --gamma-floor 0";
        let Method::UltraDelta(settings) = method(&choice(line)).unwrap() else { panic!("other") };
        let wanted = UltraDelta::default()
            .with_bits(3)
            .with_sparsity(0.9, 0.02)
            .with_rates(Rates::Paper, true)
            .with_trace(TraceReference::Value(12.5), TraceOf::Delta, 0.0);
        assert_eq!(settings, wanted);
        let Method::UltraDelta(settings) = method(&choice("--method ultradelta")).unwrap() else {
            panic!("other")
        };
        assert_eq!(settings, UltraDelta::default());
    }
}
