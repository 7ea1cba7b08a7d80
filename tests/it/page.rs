//! The page of `report`: its numbers are `inspect`'s, names cannot break out of it, and it stays small.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::made::{Outcome, encode, one_shard, tensor, write};
use crate::support::{Pair, stderr};

/// Most bytes of a page.
const MAX_PAGE: usize = 3_000_000;

fn page(pair: &Pair, line: &str) -> Outcome<String> {
    let _ = fs::remove_file(pair.path("page.html"));
    pair.run(&format!("report {line} -o page.html")).success();
    Ok(fs::read_to_string(pair.path("page.html"))?)
}

/// What the page carries as JSON.
fn embedded(page: &str) -> Outcome<Value> {
    let start = page.find("<script id=\"data\"").ok_or("no data")?;
    let rest = &page[start..];
    let (begin, end) =
        (rest.find('>').ok_or("no data")? + 1, rest.find("</script>").ok_or("no end")?);
    Ok(serde_json::from_str(&rest[begin..end])?)
}

/// Path, value and text of each number that the page shows of its data.
fn facts(page: &str) -> Vec<(String, f64, String)> {
    page.split("<data value=\"")
        .skip(1)
        .filter_map(|rest| {
            let (value, rest) = rest.split_once("\" data-of=\"")?;
            let (path, rest) = rest.split_once('"')?;
            let (_, rest) = rest.split_once('>')?;
            let (text, _) = rest.split_once("</data>")?;
            Some((path.to_owned(), value.parse().ok()?, text.to_owned()))
        })
        .collect()
}

/// What stands at a path like `variants.0.ratio`.
fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, part| match part.parse::<usize>() {
        Ok(i) => value.get(i),
        Err(_) => value.get(part),
    })
}

/// Sum of the values of the elements of this class, from `from` on to the next variant.
fn sum(page: &str, variant: usize, class: &str) -> u64 {
    let start = page.find(&format!("id=\"v{variant}\"")).unwrap();
    let end = page.find(&format!("id=\"v{}\"", variant + 1)).unwrap_or(page.len());
    let mark = format!("<data class=\"{class}\" value=\"");
    page[start..end]
        .split(mark.as_str())
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

#[test]
fn its_numbers_are_those_of_inspect() -> Outcome {
    let pair = Pair::with_archive();
    let add = "append --shards fine-tune --base base --archive a.delta.zst";
    pair.run(&format!("{add} --name exact --method lossless")).success();
    pair.run(&format!("{add} --name own --method bitdelta --base-shift own --parity 2%")).success();
    let page = page(&pair, "a.delta.zst")?;
    let (data, summary) = (embedded(&page)?, pair.json("inspect a.delta.zst --tensors", 0));
    assert_eq!(data["inspect"], summary);
    assert_eq!(data["verify"]["ok"], true);
    assert_eq!(data["left_out"], Value::Null);
    assert!(data["verify"].get("elapsed_seconds").is_none());

    let mut seen = BTreeSet::new();
    for (path, value, text) in facts(&page) {
        let expected = at(&summary, &path).and_then(Value::as_f64);
        assert_eq!(expected, Some(value), "{path} shown as {text}");
        let field = path.rsplit('.').next().unwrap_or_default().to_owned();
        if field.ends_with("_bytes") && text.contains("bytes") {
            let digits: String = text
                .split('(')
                .next_back()
                .unwrap_or_default()
                .chars()
                .filter(char::is_ascii_digit)
                .collect();
            assert_eq!(digits.parse::<f64>()?, value, "{text}");
        }
        seen.insert(if path.contains("variants.2.") { format!("2.{field}") } else { field });
    }
    for field in [
        "archive_bytes",
        "generation",
        "ratio",
        "relative_error",
        "2.stored_bytes",
        "2.ratio",
        "2.fine_tuned_bytes",
        "2.bits_per_parameter",
        "2.tensors",
        "2.lossy_tensors",
    ] {
        assert!(seen.contains(field), "the page does not show {field}: {seen:?}");
    }
    // What is drawn by kind and by layer is all of a variant's tensors.
    for (i, variant) in summary["variants"].as_array().unwrap().iter().enumerate() {
        let tensors = variant["tensor_list"].as_array().unwrap();
        let stored: u64 = tensors.iter().map(|t| t["stored_bytes"].as_u64().unwrap()).sum();
        assert_eq!([sum(&page, i, "kind-stored"), sum(&page, i, "layer-stored")], [stored; 2]);
    }
    assert!(page.contains("2%, ") && page.contains("current"), "parity is named");
    Ok(())
}

#[test]
fn the_same_archive_gives_the_same_page_and_nothing_is_replaced_unasked() -> Outcome {
    let pair = Pair::with_archive();
    let first = page(&pair, "a.delta.zst --threads 1")?;
    assert!(first == page(&pair, "a.delta.zst --threads 2")?);
    let refused = pair.run("report a.delta.zst -o page.html").code(2);
    assert!(stderr(&refused).contains("page.html exists"), "{}", stderr(&refused));
    pair.run("report a.delta.zst -o a.delta.zst --force").code(2);
    assert_eq!(pair.json("report a.delta.zst -o page.html --force", 0)["page_bytes"], first.len());
    // One variant alone, with the base.
    let decoded = page(&pair, "a.delta.zst --name small --base base")?;
    assert_eq!(embedded(&decoded)?["verify"]["level"], "decode");
    pair.run("report a.delta.zst -o none.html --name none").code(2);
    assert!(!pair.path("none.html").exists());
    Ok(())
}

#[test]
fn it_fetches_nothing_and_runs_one_script() -> Outcome {
    let pair = Pair::with_archive();
    let page = page(&pair, "a.delta.zst")?;
    for word in ["http:", "https:", "src=", "@import", "url(", "<img", "<iframe", "<object"] {
        assert!(!page.contains(word), "the page has {word}");
    }
    assert_eq!(page.matches("<script").count(), 2);
    assert!(page.contains("default-src 'none'"));
    Ok(())
}

/// Writes a checkpoint of square F32 matrices.
fn write_f32(dir: &Path, tensors: &[(String, Vec<f32>)]) -> Outcome {
    let square = |(name, values): &(String, Vec<f32>)| -> Outcome<_> {
        let side = values.len().isqrt() as u64;
        let quoted = serde_json::to_string(name)?;
        Ok(tensor(&quoted[1..quoted.len() - 1], "F32", &[side, side], encode("F32", values)))
    };
    let tensors = tensors.iter().map(square).collect::<Outcome<Vec<_>>>()?;
    write(dir, &one_shard(&tensors))
}

/// Names that try to become markup, JSON or script, or to turn the text around.
const HOSTILE: &[&str] = &[
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>.0.weight",
    "\"><svg onload=alert(1)>.1.weight",
    "' onmouseover='alert(1).2.<b>",
    "</title></svg><a href=javascript:alert(1)>.3.x",
    "]]>--><!--.4.weight",
    "\u{202e}txt.5.&lt;b&gt;",
    "line\u{2028}\u{1b}[2J.6.weight",
    "${alert(1)}{{7*7}}.7.weight",
];

#[test]
fn hostile_names_stay_text() -> Outcome {
    let pair = Pair::empty();
    let tensors = |shift: f32| -> Vec<(String, Vec<f32>)> {
        let values = |i: usize| (0..64).map(|j| (i * 64 + j) as f32 * 0.01 + shift).collect();
        HOSTILE.iter().enumerate().map(|(i, name)| ((*name).to_owned(), values(i))).collect()
    };
    write_f32(&pair.path("base"), &tensors(0.0))?;
    write_f32(&pair.path("fine-tune"), &tensors(0.003))?;
    let variant = "<script>alert(2)</script>\"'&";
    pair.command("compress --shards fine-tune --base base -o a.delta.zst --method bitdelta --include . --name")
        .arg(variant)
        .assert()
        .success();
    let page = page(&pair, "a.delta.zst")?;
    assert_eq!(page.matches("<script").count(), 2, "a name became a script");
    assert_eq!(page.matches("</script>").count(), 2);
    assert_eq!(embedded(&page)?["inspect"], pair.json("inspect a.delta.zst --tensors", 0));
    for word in [
        "<img",
        "<a href=java",
        "onload=alert(1)>",
        "<b>.",
        "<!--",
        "\u{202e}",
        "\u{1b}",
        "\u{2028}",
    ] {
        assert!(!page.contains(word), "{word:?} is in the page");
    }
    // Outside the quotes of attributes no tag has anything of a name.
    for tag in page.split('<').skip(1).map(|tag| tag.split('>').next().unwrap_or_default()) {
        let outside: String = tag.split('"').step_by(2).collect();
        assert!(!outside.contains("alert") && !outside.contains(" on"), "a name got out: <{tag}>");
    }
    assert!(page.contains("&lt;script&gt;alert(2)&lt;/script&gt;"));
    Ok(())
}

#[test]
fn thousands_of_tensors_are_a_page_still() -> Outcome {
    let pair = Pair::empty();
    let tensors = |shift: f32| -> Vec<(String, Vec<f32>)> {
        let kinds = ["self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "mlp.down_proj"];
        let name = |i: usize| {
            format!(
                "model.layers.{}.{}.weight",
                i / 40,
                kinds[i % 4].replace("proj", &format!("proj.experts.{}", i % 40))
            )
        };
        let values = |i: usize| {
            (0..64)
                .map(|j| ((i + 1) * (j + 3)) as f32 * 1e-4 * (1.0 + shift * (j % 7) as f32))
                .collect()
        };
        (0..6000).map(|i| (name(i), values(i))).collect()
    };
    write_f32(&pair.path("base"), &tensors(0.0))?;
    write_f32(&pair.path("fine-tune"), &tensors(0.01))?;
    let line = "--shards fine-tune --base base --method bitdelta --include .";
    pair.run(&format!("compress {line} -o a.delta.zst --name one")).success();
    pair.run(&format!("append {line} --archive a.delta.zst --name two")).success();
    let page = page(&pair, "a.delta.zst")?;
    assert!(page.len() < MAX_PAGE, "{} bytes", page.len());
    let data = embedded(&page)?;
    assert_eq!(data["left_out"], "tensors");
    let summary = pair.json("inspect a.delta.zst", 0);
    assert_eq!(
        data["inspect"]["variants"][1]["stored_bytes"],
        summary["variants"][1]["stored_bytes"]
    );
    assert!(page.contains("id=\"v1\"") && page.contains("tensors that take most bytes"));
    assert_eq!(sum(&page, 0, "kind-stored"), sum(&page, 1, "layer-stored"));
    Ok(())
}

#[test]
fn damage_is_on_the_page_and_in_the_exit_code() -> Outcome {
    let pair = Pair::with_archive();
    let mut bytes = fs::read(pair.path("a.delta.zst"))?;
    // Inside a tile: behind the header of the first frame.
    let at = bytes.len() / 3;
    bytes[at] ^= 0x40;
    fs::write(pair.path("a.delta.zst"), &bytes)?;
    pair.run("report a.delta.zst -o page.html").code(4);
    let page = fs::read_to_string(pair.path("page.html"))?;
    assert_eq!(embedded(&page)?["verify"]["ok"], false);
    assert!(page.contains("damaged: variant `small`"), "the page names the damage");
    Ok(())
}
