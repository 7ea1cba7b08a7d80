//! Values by patterns of module names, as PEFT reads them: a pattern is the end of a module's name, from a dot
//! on, and of several that fit the first counts.
//!
//! Some adapters have a pattern for each of their modules, which is the module's own name; and whoever writes a
//! pattern may make one that compiles to very much. So names are compared without being compiled, and what
//! the others compile to is bounded.

use regex::{Regex, RegexBuilder};

/// Most bytes that all patterns together are compiled to, and each of them.
const MOST_BYTES: usize = 16 << 20;
const MOST_EACH: usize = 1 << 20;
/// Most bytes of what a pattern remembers of its matches.
const MOST_CACHE: usize = 64 << 10;

/// Values by patterns, in their order.
#[derive(Debug, Default)]
pub(super) struct Patterns(Vec<(Pattern, f64)>);

#[derive(Debug)]
enum Pattern {
    /// Characters as they come; none stands for any one.
    Name(Vec<Option<char>>),
    Other(Regex),
}

impl Patterns {
    /// # Errors
    /// The pattern that is none, or too large.
    pub(super) fn new<'a>(rows: &[(&'a str, f64)]) -> Result<Self, &'a str> {
        let names: Vec<_> = rows.iter().map(|(pattern, _)| name(pattern)).collect();
        let n_others = names.iter().filter(|name| name.is_none()).count();
        let most = MOST_EACH.min(MOST_BYTES / n_others.max(1));
        let compiled = |(name, &(pattern, value)): (Option<Vec<_>>, &(&'a str, f64))| {
            let pattern = match name {
                Some(name) => Pattern::Name(name),
                None => Pattern::Other(compile(pattern, most).ok_or(pattern)?),
            };
            Ok((pattern, value))
        };
        names.into_iter().zip(rows).map(compiled).collect::<Result<_, _>>().map(Self)
    }

    /// The value of the first pattern that fits a module.
    pub(super) fn find(&self, module: &str) -> Option<f64> {
        self.0.iter().find(|(pattern, _)| pattern.fits(module)).map(|row| row.1)
    }
}

impl Pattern {
    fn fits(&self, module: &str) -> bool {
        let name = match self {
            Self::Name(name) => name,
            Self::Other(regex) => return regex.is_match(module),
        };
        let mut chars = module.chars();
        let is_end = name.iter().rev().all(|wanted| {
            chars.next_back().is_some_and(|c| wanted.map_or(c != '\n', |wanted| c == wanted))
        });
        let before = chars.as_str();
        is_end && (before.is_empty() || before.ends_with('.') && !before.contains('\n'))
    }
}

/// A pattern that is a name: letters, digits, `_`, `-` and dots, with a backslash before them or not.
fn name(pattern: &str) -> Option<Vec<Option<char>>> {
    let (mut chars, mut out) = (pattern.chars(), Vec::with_capacity(pattern.len()));
    while let Some(c) = chars.next() {
        out.push(match c {
            '.' => None,
            '\\' => Some(chars.next().filter(|c| *c == '.')?),
            c if c.is_ascii_alphanumeric() || c == '_' || c == '-' => Some(c),
            _ => return None,
        });
    }
    Some(out)
}

fn compile(pattern: &str, most: usize) -> Option<Regex> {
    // By itself first: it may close a bracket that is opened around it.
    let build =
        |text: &str| RegexBuilder::new(text).size_limit(most).dfa_size_limit(MOST_CACHE).build();
    build(pattern).and_then(|_| build(&format!(r"^(?:.*\.)?(?:{pattern})$"))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_as_by_their_expressions() {
        let modules = [
            "", "q", "a.q", "a.b.q", "aq", "a.bxq", "b.q", "a.b", "a.q.b", "a\n.q", "a.\nq",
            "é.b-q",
        ];
        for pattern in ["", "q", "b.q", r"b\.q", "a.b.q", ".", "..", "b-q", "a_1", r"\.q"] {
            let regex = compile(pattern, MOST_EACH).unwrap();
            let name = Pattern::Name(name(pattern).unwrap());
            for module in modules {
                assert_eq!(name.fits(module), regex.is_match(module), "{pattern:?} {module:?}");
            }
        }
        for pattern in ["a|b", r"\d", "a*", "(a)", r"a\\", "[a]", "a b", "^a", "\\"] {
            assert!(name(pattern).is_none(), "{pattern}");
        }
    }

    #[test]
    fn the_first_that_fits_counts() {
        let rows = [("layers.1.q", 1.0), (r"layers\.\d+\.q", 2.0), ("q", 3.0), ("k|v", 4.0)];
        let patterns = Patterns::new(&rows).unwrap();
        for (module, value) in [
            ("m.layers.1.q", Some(1.0)),
            ("m.layers.11.q", Some(2.0)),
            ("m.q", Some(3.0)),
            ("v", Some(4.0)),
            ("m.o", None),
        ] {
            assert_eq!(patterns.find(module), value, "{module}");
        }
    }

    #[test]
    fn what_compiles_to_too_much_is_refused_and_names_are_not_compiled() {
        for pattern in ["(?:.{100}){100}", r"\w{9}{9}{9}", "(", "a)|(b"] {
            assert_eq!(Patterns::new(&[("q", 1.0), (pattern, 2.0)]).unwrap_err(), pattern);
        }
        let names: Vec<_> = (0..100_000).map(|i| format!("layers.{i}.q")).collect();
        let rows: Vec<_> = names.iter().map(|name| (name.as_str(), 1.0)).collect();
        assert_eq!(Patterns::new(&rows).unwrap().find("layers.99999.q"), Some(1.0));
        // One is no more than all may be; a thousand are.
        let large = r"\w{9}".to_owned();
        let many = vec![(large.as_str(), 1.0); 1000];
        assert!(Patterns::new(&many[..1]).is_ok());
        assert!(Patterns::new(&many).is_err());
    }
}
