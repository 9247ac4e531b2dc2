use std::os::unix::fs::PermissionsExt;

use super::*;

fn subject(kind: SubjectKind, name: &str) -> SubjectName {
    SubjectName { kind, name: name.to_owned() }
}

fn word(action: Action) -> Override {
    let reason = "replacing fans \u{2014} \"row 7\"".to_owned();
    Override::new(action, reason, jiff::Timestamp::UNIX_EPOCH)
}

#[test]
fn words_outlive_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut overrides = Overrides::load(dir.path()).unwrap();
    assert_eq!(overrides.iter().count(), 0);
    let rack = subject(SubjectKind::Domain, "west/w1/r1");
    let backend = subject(SubjectKind::Backend, "w1r1b1");
    overrides.set(rack.clone(), word(Action::Drain)).unwrap();
    overrides.set(backend.clone(), word(Action::Drain)).unwrap();
    overrides.set(backend.clone(), word(Action::Fail)).unwrap();

    let mut again = Overrides::load(dir.path()).unwrap();
    assert_eq!(again.get(&rack), Some(&word(Action::Drain)));
    assert_eq!(again.get(&backend), Some(&word(Action::Fail)));
    assert!(again.clear(&rack).unwrap());
    assert!(!again.clear(&rack).unwrap());

    let last = Overrides::load(dir.path()).unwrap();
    assert_eq!(last.iter().collect::<Vec<_>>(), [(&backend, &word(Action::Fail))]);
}

#[test]
fn only_root_reads_the_file_and_nothing_else_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let mut overrides = Overrides::load(dir.path()).unwrap();
    overrides.set(subject(SubjectKind::Backend, "b"), word(Action::Drain)).unwrap();
    let mode = fs::metadata(dir.path().join(OVERRIDES_FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), [OVERRIDES_FILE]);
}

#[test]
fn damaged_file_is_refused_and_left_as_it_is() {
    let good =
        r#"{"kind":"domain","name":"west","action":"drain","reason":"r","since":"2026-01-01T00:00:00Z"}"#;
    let shift = r#"{"domain":"west","shift":{"keep_percent":50,"origin":"operator","reason":"r","since":"2026-01-01T00:00:00Z","until":"2026-01-01T02:00:00Z","prolonged_by_s":600}}"#;
    let cases = [
        (String::new(), "EOF"),
        ("{\"version\":1,\"overr".to_owned(), "EOF"),
        ("\0\0\0\0".to_owned(), "expected value"),
        ("{\"version\":3,\"overrides\":[]}".to_owned(), "version is 3"),
        ("{\"version\":0,\"overrides\":[]}".to_owned(), "version is 0"),
        (
            format!("{{\"version\":2,\"overrides\":[],\"shifts\":[{shift},{shift}]}}"),
            "the shift of west stands in it twice",
        ),
        (
            format!("{{\"version\":2,\"overrides\":[],\"shifts\":[{}]}}", shift.replace(":50,", ":100,")),
            "keeps 100 %",
        ),
        ("{\"version\":1,\"overrides\":[],\"more\":1}".to_owned(), "unknown field"),
        (format!("{{\"version\":1,\"overrides\":[{good},{good}]}}"), "domain west stands in it twice"),
        (format!("{{\"version\":1,\"overrides\":[{}]}}", good.replace("drain", "restore")), "never stands"),
    ];
    for (text, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(OVERRIDES_FILE);
        fs::write(&path, &text).unwrap();
        let error = Overrides::load(dir.path()).expect_err(&text);
        assert!(matches!(error, OverridesError::Corrupt { .. }), "{text}: {error:?}");
        let message = error.to_string();
        assert!(message.contains(expected) && message.contains(path.to_str().unwrap()), "{text}: {message}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn word_that_cannot_be_saved_does_not_stand() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    let mut overrides = Overrides::load(&state).unwrap();
    let kept = subject(SubjectKind::Backend, "kept");
    overrides.set(kept.clone(), word(Action::Drain)).unwrap();
    // Root may write anywhere, so the directory itself has to go.
    let moved = dir.path().join("moved");
    fs::rename(&state, &moved).unwrap();
    let lost = subject(SubjectKind::Backend, "lost");
    assert!(matches!(overrides.set(lost.clone(), word(Action::Fail)), Err(OverridesError::Write { .. })));
    assert!(matches!(overrides.clear(&kept), Err(OverridesError::Write { .. })));
    assert_eq!(overrides.get(&lost), None);
    assert!(overrides.get(&kept).is_some());
    assert_eq!(Overrides::load(&moved).unwrap().iter().count(), 1);
}

#[test]
fn half_written_successor_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut overrides = Overrides::load(dir.path()).unwrap();
    let rack = subject(SubjectKind::Domain, "west");
    overrides.set(rack.clone(), word(Action::Drain)).unwrap();
    fs::write(dir.path().join("overrides.json.tmp"), "{\"version\":1,\"ov").unwrap();
    let mut again = Overrides::load(dir.path()).unwrap();
    assert!(again.get(&rack).is_some());
    again.clear(&rack).unwrap();
    assert_eq!(Overrides::load(dir.path()).unwrap().iter().count(), 0);
}

#[test]
fn ends_watches_and_shifts_outlive_the_process() {
    use crate::plan::shift::Origin;
    let dir = tempfile::tempdir().unwrap();
    let mut overrides = Overrides::load(dir.path()).unwrap();
    let backend = subject(SubjectKind::Backend, "b");
    let at = |s| jiff::Timestamp::from_second(s).unwrap();
    let watch = Watch { deadline: Some(at(600)), quiet_s: Some(5) };
    let held = Override { until: Some(at(7_200)), watch, ..word(Action::Drain) };
    overrides.set(backend.clone(), held.clone()).unwrap();
    let shift = Shift::new(50, Origin::Operator, "cooling".to_owned(), at(0), at(7_200)).prolonged().unwrap();
    overrides.set_shift("west/w1", Some(shift.clone())).unwrap();
    overrides.set_shift("west/w2", Some(shift.clone())).unwrap();

    let mut again = Overrides::load(dir.path()).unwrap();
    assert_eq!(again.get(&backend), Some(&held));
    assert_eq!(
        again.shifts().map(|(d, s)| (d.as_str(), s)).collect::<Vec<_>>(),
        [("west/w1", &shift), ("west/w2", &shift)]
    );
    again.set_shift("west/w1", None).unwrap();
    again.clear_all(&[backend], &["west/w9".to_owned()]).unwrap();
    let last = Overrides::load(dir.path()).unwrap();
    assert_eq!((last.iter().count(), last.shifts().count()), (0, 1));
}

/// What a daemon of version 0.1 wrote.
#[test]
fn the_version_before_is_read_and_its_words_have_no_end() {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"{"version":1,"overrides":[{"kind":"domain","name":"west","action":"drain","reason":"r","since":"2026-01-01T00:00:00Z"}]}"#;
    fs::write(dir.path().join(OVERRIDES_FILE), text).unwrap();
    let mut overrides = Overrides::load(dir.path()).unwrap();
    let west = subject(SubjectKind::Domain, "west");
    let held = overrides.get(&west).unwrap().clone();
    assert_eq!((held.action, held.until), (Action::Drain, None));
    overrides.set(subject(SubjectKind::Backend, "b"), word(Action::Fail)).unwrap();
    let again = Overrides::load(dir.path()).unwrap();
    assert_eq!(again.get(&west), Some(&held));
    assert!(fs::read_to_string(dir.path().join(OVERRIDES_FILE)).unwrap().contains("\"version\": 2"));
}
