use super::*;

fn writes() -> Writes<()> {
    Writes::new(Arc::new(()))
}

fn answer() -> Remembered {
    Remembered { status: StatusCode::OK, kind: None, body: Bytes::new() }
}

fn is_new(writes: &Writes<()>, key: &str) -> bool {
    matches!(writes.look(key, [0; 32]), Known::New)
}

#[test]
fn one_request_of_a_key_is_under_way_at_once_and_one_that_was_given_up_may_come_again() {
    let writes = writes();
    assert!(is_new(&writes, "a"));
    assert!(matches!(writes.look("a", [0; 32]), Known::Refused(_)), "it is still being served");
    assert!(is_new(&writes, "b"), "another one is not held up");
    let under_way = |answered| drop(UnderWay { writes: &writes, key: "a".to_owned(), answered });
    under_way(true);
    assert!(!is_new(&writes, "a"));
    under_way(false);
    assert!(is_new(&writes, "a"));
    writes.remember("a", answer());
    assert!(matches!(writes.look("a", [0; 32]), Known::Answered(_)));
    assert!(matches!(writes.look("a", [1; 32]), Known::Refused(_)), "another request");
}

#[test]
fn room_is_made_by_the_oldest_answer_and_never_by_what_is_under_way() {
    let writes = writes();
    assert!(is_new(&writes, "under way"));
    for number in 1..MAX_IDEMPOTENCY_KEYS {
        assert!(is_new(&writes, &number.to_string()));
        writes.remember(&number.to_string(), answer());
    }
    assert!(is_new(&writes, "one more"));
    assert!(!is_new(&writes, "under way"));
    assert!(is_new(&writes, "1"), "the oldest answer went");
    assert_eq!(lock(&writes).len(), MAX_IDEMPOTENCY_KEYS);
}

#[test]
fn answers_are_remembered_for_a_time() {
    let writes = writes();
    for key in ["old", "young", "under way"] {
        assert!(is_new(&writes, key));
    }
    ["old", "young"].iter().for_each(|key| writes.remember(key, answer()));
    let begin = Instant::now().checked_sub(IDEMPOTENCY_TIME).expect("in range");
    for seen in lock(&writes).iter_mut().filter(|seen| seen.key != "young") {
        seen.at = begin;
    }
    assert!(is_new(&writes, "old") && !is_new(&writes, "young") && !is_new(&writes, "under way"));
}

fn lock(writes: &Writes<()>) -> std::sync::MutexGuard<'_, VecDeque<Seen>> {
    writes.seen.lock().unwrap_or_else(PoisonError::into_inner)
}
