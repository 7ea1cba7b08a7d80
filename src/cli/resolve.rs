//! From what was typed, and the environment, to the library's options. Touches no file.

use delta_stream::{
    CompressOptions, HubCache, MapChoice, Method, Observer, Policy, Resources, Rest, Result,
};
use serde::Serialize;

use crate::cli::args::{Choice, Common, Io, RestName};
use crate::cli::progress::Console;
use crate::cli::{choice, output};

/// What holds for the whole run, whatever the verb.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) resources: Resources,
    pub(crate) seed: Option<u64>,
    pub(crate) force: bool,
    pub(crate) json: bool,
    quiet: bool,
}

impl Context {
    pub(crate) fn new(common: &Common) -> Self {
        let mut resources = Resources::default().with_max_memory(common.max_memory);
        if let Some(threads) = common.threads {
            resources = resources.with_threads(threads);
        }
        let hub = HubCache::from_env(|name| std::env::var_os(name));
        resources = resources.with_map(map_choice(common.io)).with_hub(Some(hub));
        let Common { seed, force, json, quiet, .. } = *common;
        Self { resources, seed, force, json, quiet }
    }

    /// Runs one library call with progress and notes on standard error, gone when it returns.
    pub(crate) fn watch<T>(&self, call: impl FnOnce(&dyn Observer) -> Result<T>) -> Result<T> {
        call(&Console::new(self.quiet))
    }

    /// Prints notes that a report carries.
    pub(crate) fn note_all(&self, notes: &[String]) {
        let console = Console::new(self.quiet);
        notes.iter().for_each(|note| console.note(note));
    }

    /// Prints the result: the report as JSON, or its table.
    pub(crate) fn print(
        &self,
        report: &impl Serialize,
        table: impl FnOnce() -> String,
    ) -> Result<()> {
        if self.json {
            output::print(&format!("{}\n", output::json(report)?))
        } else {
            output::print(&table())
        }
    }

    /// Options of `compress`, `append` and `plan`.
    pub(crate) fn compress_options(
        &self,
        choice: &Choice,
        name: Option<&str>,
    ) -> Result<CompressOptions> {
        let method = choice::method(choice)?;
        if method == Method::Lossless && (choice.include.is_some() || choice.exclude.is_some()) {
            self.note_all(&[
                "--include and --exclude choose lossy tensors; lossless has none".into()
            ]);
        }
        let rest = match choice.rest {
            RestName::Keep => Rest::Keep,
            RestName::Base => Rest::Base,
        };
        let policy =
            Policy::new(choice.include.as_deref(), choice.exclude.as_deref())?.with_rest(rest);
        let shift = choice::base_shift(choice)?;
        let mut options = CompressOptions::new(method)
            .with_policy(policy)
            .with_base_shift(shift)
            .with_calibrate(choice.calibrate.clone())
            .with_seed(self.seed.unwrap_or(0))
            .with_resources(self.resources.clone())
            .with_force(self.force);
        if let Some(name) = name {
            options = options.with_name(name);
        }
        Ok(options)
    }
}

#[expect(unsafe_code, reason = "the one place where the promise about mapped files is passed on")]
fn map_choice(io: Io) -> MapChoice {
    match io {
        // SAFETY: whether other processes leave the inputs alone is the user's to know; `--help` says
        // that they must not change during a run. This process itself writes new files only, and
        // renames them into place.
        Io::Auto => unsafe { MapChoice::trusting_local_files_stay_unchanged() },
        // SAFETY: as above.
        Io::Mmap => unsafe { MapChoice::trusting_files_stay_unchanged() },
        Io::Read => MapChoice::never(),
        Io::Direct => MapChoice::direct(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Args, Verb};
    use clap::Parser;
    use delta_stream::{Auto, DeltaDq};

    fn choice(line: &str) -> (Context, Choice) {
        let line = format!("delta-stream plan --shards f --base b -q {line}");
        let args = Args::try_parse_from(line.split_whitespace()).unwrap();
        let Verb::Plan(verb) = args.verb else { panic!("not plan") };
        (Context::new(&args.common), verb.choice)
    }

    #[test]
    fn options_are_resolved() {
        let (context, choice) = choice(
            "--method delta-dct --patch 8 --rescale off --allocation 3:1 --threads 2 --max-memory 1GiB --seed 4",
        );
        let options = context.compress_options(&choice, Some("v")).unwrap();
        let Method::DeltaDct(settings) = &options.method else { panic!("not delta-dct") };
        assert_eq!((settings.patch, settings.rescale), (8, false));
        assert_eq!(settings.allocation.to_string(), "3:1");
        assert_eq!((options.resources.threads, options.resources.max_memory), (2, 1 << 30));
        assert_eq!((options.seed, options.name.as_deref()), (4, Some("v")));
        assert_eq!(options.resources.map, map_choice(Io::Auto));
        assert_ne!(options.resources.map, map_choice(Io::Mmap));
    }

    #[test]
    fn defaults_are_the_librarys() {
        let (context, choice) = choice("--io read");
        let options = context.compress_options(&choice, None).unwrap();
        assert_eq!(options.method, Method::Auto(Auto::default()));
        assert_eq!(options.resources.threads, Resources::default().threads);
        assert_eq!(options.resources.map, MapChoice::never());
        assert_eq!((options.seed, options.name, options.force), (0, None, false));
    }

    #[test]
    fn a_group_is_left_open_unless_it_is_given() {
        for (line, group) in [("", None), ("--group auto", None), ("--group 16", Some(16))] {
            let (context, choice) = choice(&format!("--method deltadq {line}"));
            let options = context.compress_options(&choice, None).unwrap();
            assert_eq!(options.method, Method::DeltaDq(DeltaDq::default().with_group(group)));
        }
    }

    #[test]
    fn a_bad_regex_names_its_flag() {
        let (context, choice) = choice("--exclude (");
        let error = context.compress_options(&choice, None).unwrap_err();
        let line = output::error_line(&error);
        assert!(line.starts_with("error: --exclude") && line.lines().count() == 1, "{line}");
    }
}
