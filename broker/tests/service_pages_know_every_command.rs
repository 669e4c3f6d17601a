//! Man pages and completions that name all commands and flags.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn tidegate(args: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate")).args(args).output();
    let output = output.expect("run tidegate");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn text(args: &[&str]) -> String {
    String::from_utf8(tidegate(args).stdout).expect("UTF-8")
}

/// The commands as `tidegate --help` lists them.
fn commands() -> Vec<String> {
    let help = text(&["--help"]);
    let (_, list) = help.split_once("Commands:\n").expect("a list of commands");
    let list = list.split("\n\n").next().unwrap_or_default();
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

fn accepts(shell: &str, args: &[&str], script: &str) {
    use std::io::Write;
    let child = Command::new(shell).args(args).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    // Not every machine has every shell.
    let Ok(mut child) = child else { return };
    child.stdin.take().expect("piped").write_all(script.as_bytes()).expect("the shell reads");
    let output = child.wait_with_output().expect("the shell ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{shell}: {said}");
}

#[test]
fn completions_name_every_command_and_parse() {
    for (shell, check) in
        [("bash", vec!["-n"]), ("zsh", vec!["-n"]), ("fish", vec!["--no-execute"])]
    {
        let script = text(&["completion", shell]);
        for command in commands() {
            assert!(script.contains(&command), "{shell}: no {command}");
        }
        assert!(script.contains("data-dir"), "{shell}");
        accepts(shell, &check, &script);
    }
}

#[test]
fn bash_completes_a_command_and_a_flag() {
    let script = text(&["completion", "bash"]);
    let ask = |words: &str, at: usize, current: &str| {
        let script = format!(
            "{script}\nCOMP_WORDS=({words})\nCOMP_CWORD={at}\n_tidegate tidegate {current:?}\n\
             printf '%s\\n' \"${{COMPREPLY[@]}}\"\n"
        );
        let output = Command::new("bash").arg("-c").arg(script).output().expect("run bash");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    assert_eq!(ask("tidegate chec", 1, "chec"), "check\n");
    assert_eq!(ask("tidegate run --da", 2, "--da"), "--data-dir\n");
}

#[test]
fn every_command_has_a_page_without_a_fault() {
    let dir = std::env::temp_dir().join(format!("tidegate-man-{}", std::process::id()));
    tidegate(&["man", dir.to_str().expect("UTF-8")]);
    let mut pages: Vec<PathBuf> = vec![dir.join("tidegate.1")];
    pages.extend(commands().iter().map(|name| dir.join(format!("tidegate-{name}.1"))));
    for page in &pages {
        let source = std::fs::read_to_string(page).unwrap_or_else(|e| panic!("{page:?}: {e}"));
        assert!(source.contains(".SH NAME") && source.contains(".TH "), "{page:?}");
        let groff = Command::new("groff").args(["-man", "-Tutf8", "-ww"]).arg(page).output();
        // Not every machine has it.
        if let Ok(output) = groff {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.is_empty(), "{page:?}: {said}");
        }
    }
    let page = std::fs::read_to_string(&pages[0]).expect("read above");
    assert_eq!(page, text(&["man"]));
    for wanted in ["EXIT STATUS", "SIGHUP", "NOTIFY_SOCKET", "tidegate\\-run(1)"] {
        assert!(page.contains(wanted), "{wanted} in:\n{page}");
    }
    let _ = std::fs::remove_dir_all(dir);
}
