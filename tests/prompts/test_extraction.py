"""Extraction of queries from answers, and the log-probabilities of their tokens."""

import json
import re
import time

import pytest

from pyterrier_inpars.backends._reasoning import reasoning_tag
from pyterrier_inpars.backends.base import Completion
from pyterrier_inpars.prompts.extraction import (
    Query,
    check_extract,
    describe_extract,
    log_probs_of,
    queries_of,
)

THOUGHT = '<think>\nQuery: no\n{"query": "no"}\n</think>\n\n'
JSON = {"json": "query"}


def texts(answer, extract=None, chat=True):
    return [query.text for query in queries_of(answer, extract, chat=chat)]


@pytest.mark.parametrize(
    "answer, extract, expected",
    [
        ("a query", None, ["a query"]),
        ("\n\n a query \nmore text", None, ["a query"]),
        ("", None, []),
        (" \n ", None, []),
        ('"a query"', None, ["a query"]),
        ("“a query”", None, ["a query"]),
        ("'\"a query\"'", None, ["a query"]),
        ('"a" or "b"', None, ['"a" or "b"']),
        ('"', None, ['"']),
        (THOUGHT + "a query", None, ["a query"]),
        ("no opening tag</think>a query", None, ["a query"]),
        ("<think>no end", None, []),
        (THOUGHT + "a <think>again", None, []),
        ("[THINK]x[/THINK]a query", None, ["a query"]),
        (THOUGHT + "Thus.\nQuery: a query\nDone", "Query:", ["a query"]),
        ("Query: one\nQuery: two", "Query:", ["two"]),
        ("no marker", "Query:", []),
        ("Query:", "Query:", []),
        ("1. one\n2. two\n3. ", re.compile(r"^\d\.(.*)$", re.M), ["one", "two"]),
        (THOUGHT + "a query", re.compile(r"(?<=</think>)\s*(.+)"), ["a query"]),
        (THOUGHT + "1. a\n2. b", re.compile(r"(?<=\n)\d\. (.+)"), ["a", "b"]),
        ("a <q>b</q>", re.compile("<q>.*?</q>"), ["<q>b</q>"]),
        ("a b\nc d", re.compile(r"b\nc"), ["b c"]),
        ("x", re.compile("(y)?x"), []),
        ("'what's a puma?'", None, ["what's a puma?"]),
        ('""', None, []),
        (THOUGHT + '```json\n{"query": "a \\"b\\""}\n```', {"json": "query"}, ['a "b"']),
        ('{"a": 1} {"query": ["one", "two", 3]}', {"json": "query"}, ["one", "two"]),
        ('{"query": {"x": 1}}', {"json": "query"}, []),
        ('{"query": "cut', {"json": "query"}, []),
        ("{" * 5_000, {"json": "query"}, []),
        (THOUGHT + "a; b", lambda text: text.strip().split(";"), ["a", "b"]),
        ("a", lambda text: text * 2, ["aa"]),
        ("a", lambda text: None, []),
        ("a", lambda text: (word for word in ("b", "c")), ["b", "c"]),
        ("<THINK>no</THINK>\na query", None, ["a query"]),
        ("<Thinking>no", None, []),
        ("**Query:** a query\nmore", "Query:", ["a query"]),
        ("*Query:* a query", "Query:", ["a query"]),
        ("Query:\n\na query\nmore", "Query:", ["a query"]),
        ("**Query**: a query\nmore", "Query:", ["a query"]),
        ('- ***Query***: "how A* works"', "Query:", ["how A* works"]),
        ("*Query*:\n**a query**", "Query:", ["a query"]),
        ("**Query:**\n**a query**", "Query:", ["a query"]),
        ("**Query: a query**\nmore", "Query:", ["a query"]),
        ("**Query:** how A* works, or D*", "Query:", ["how A* works, or D*"]),
        ("**a query**", None, ["a query"]),
        ("*a query*", None, ["a query"]),
        ("**a** query **b**", None, ["**a** query **b**"]),
        ("__init__", None, ["__init__"]),
        ("2 * 3 *", None, ["2 * 3 *"]),
        ("**", None, []),
        ('[{"query": "one"}, {"query": "two"}, {"a": 1}, 5]', {"json": "query"}, ["one", "two"]),
        ('{"a": [{"query": "one"}]}', {"json": "query"}, ["one"]),
        ('{"query": "a \\ud800 b"}', {"json": "query"}, ["a   b"]),
        ("one\rtwo", None, ["one"]),
        ("one\u2028two", None, ["one"]),
        ("a\x00b\x1bc", None, ["a b c"]),
        ("1: one\r2: two\r", re.compile(r"\d: ([^:]*)(?=\r)"), ["one", "two"]),
        ("a", lambda text: "one\rtwo\x85three", ["one two three"]),
    ],
)
def test_queries_of_an_answer(answer, extract, expected):
    assert texts(answer, extract) == expected


@pytest.mark.parametrize(
    "answer",
    [
        *("```\nx y\n```", "```text\nx y\n```", "~~~\nx y", "```x y```", "---\nx y"),
        *("<answer>x y</answer>", "<answer>\nx y\n</answer>", "<query> x y"),
        *("> x y", "- x y", "* x y", "• x y", "1. x y\n2. z", "1) x y", "# x y", "- **x y**"),
        *('"x y".', "„x y“", "»x y«", "‚x y‘", "‹x y›", "“x y”,", "***x y***", '**"x y"**'),
        *("Here is a search query:\n\nx y", "Sure! Here's one:\n- x y", "Sure!\nx y"),
        *("**Search query**\nx y", "## Search Query\nx y", "**Query:**\n```\nx y\n```"),
        *("Search query: x y", "**Search query:** x y", "**Query: x y**", "__Query:__ x y"),
        *("Here is a query: x y", "Query 1: x y", "Query： x y", "query：x y", "Question: x y"),
        *("x y<|END_RESPONSE|>", "1. **Query:** 'x y'", "<query>x y</query>.", "_x y_", "__x y__"),
        *("Query #1: x y", "Query:x y", "Sure, here is a search query for the document: x y"),
        *("Here is a search query for this document.\n\nx y", "Of course!\nx y", "Query\nx y"),
        *("Sure thing! Let me write one.\nx y", "Absolutely.\nx y", "# Example queries\n- x y"),
        *(
            "Voici une requête :\nx y",
            "以下是搜索查询：\nx y",
            "検索クエリ:\nx y",
            "Suchanfrage:\nx y",
        ),
        *("Aquí está la consulta:\nx y", "1、x y\n2、z", "1．x y", "**검색 쿼리:**\nx y"),
        *("A relevant query would be:\nx y", "A user might search for:\nx y", "They ask:\nx y"),
    ],
)
def test_what_is_around_the_first_line_is_no_part_of_the_query(answer):
    """Of the answer to a chat prompt alone; the log-probabilities are those of the query."""
    (query,) = queries_of(answer, None, chat=True)
    assert query == Query("x y", answer.index("x y"))
    (line,) = texts(answer, chat=False)
    assert line == answer.splitlines()[0].strip()


@pytest.mark.parametrize(
    "query",
    [
        *("3 body problem", "2. Bundesliga table", "-5 degrees in fahrenheit", "C# or F#", "C#"),
        *("- 5 degrees", "Python: sort a list", "sql query: what is a join", "*args in python"),
        *("> 5 years old", "# 1 song of 1999", "<div> in html", "__init__ or __new__", "#hashtag"),
        *("what does a:b mean", "1.5 liter engine", 'why is `a` in "b".', "5' 11\" in cm"),
        *("answering machine", "the query language of lucene", "question mark", "5 > 3", "a."),
        *("what is the meaning of:", "https://example.com/a", "10:30 train", "question"),
        *("- 2024 election results", "## 10 best", "# of calories in rice", "-  5 degrees"),
        *("The answer: my life", "final question: jeopardy", "question 5: exam 2019"),
        *("user query: intent classification survey", "query://a", "_ is the capital of _"),
        *("the _private_ name", "_private_", "__name__ == __main__"),
        *("here is where we are", "analysisX ray", "analysisPython pandas", '"what is x"?'),
    ],
)
def test_what_can_be_a_query_stays(query):
    assert texts(query) == [query]
    assert texts(f"Query: {query}", "Query:") == [query]


@pytest.mark.parametrize(
    "query",
    [
        *("how to fix the following error:", "what does the following do:", "binary search steps:"),
        *("how is this query parsed:", "why is the answer 42:", "surely you are joking", "queried"),
        *("如何搜索以下错误：", "comment corriger la requête :", "怎么解决以下问题："),
        *("where is here:", "certain death", "here comes the sun", "answers to exam 5"),
    ],
)
def test_a_query_is_not_taken_for_an_announcement_of_the_next_line(query):
    assert texts(f"{query}\nTypeError: 'NoneType'") == [query]


@pytest.mark.parametrize("mark", ["1. ", "1) ", "• ", "* "])
@pytest.mark.parametrize("query", ["10 best laptops", "2024 election results", "5 ways to x"])
def test_a_list_mark_before_a_number(mark, query):
    assert texts(mark + query) == [query]


@pytest.mark.parametrize(
    "answer", ["```", "```\n```", "Here is a search query:", "<answer>", "---"]
)
def test_markdown_and_announcements_alone_are_no_query(answer):
    assert texts(answer) == []


@pytest.mark.parametrize(
    "answer",
    [
        *("__Query:__ x y", "Query:** x y", "Query： x y", "Query：x y", "**Query：** x y"),
        *("_Query_: x y", "__Query: x y__", "Query:\n```\nx y\n```", "Query:\n- x y"),
        *("Query:** x y\nz", "**Query:**x y", "Query: <answer>x y</answer>", "Query: „x y“."),
    ],
)
def test_a_marker_in_markdown_and_with_a_full_width_colon(answer):
    (query,) = queries_of(answer, "Query:", chat=True)
    assert query == Query("x y", answer.index("x y"))
    assert texts(answer.replace("Query", "查询"), "查询：") == ["x y"]


def test_quotation_marks_alone_are_removed_elsewhere():
    assert texts(json.dumps({"query": "„- x y“"}), JSON) == ["- x y"]
    assert texts("a", lambda answer: "1. x y") == ["1. x y"]
    assert texts("q: - x y", re.compile("q: (.*)")) == ["- x y"]


@pytest.mark.parametrize(
    "answer, expected",
    [
        # harmony, from a server that returns special tokens and from one that does not
        (
            "<|channel|>analysis<|message|>We need…<|end|><|start|>assistant"
            "<|channel|>final<|message|>plasma noise",
            ["plasma noise"],
        ),
        ("<|channel|>final <|constrain|>json<|message|>plasma noise", ["plasma noise"]),
        ("<|channel|>analysis<|message|>We need", []),
        ("<|channel|>analysis<|message|>We<|end|><|start|>assistant<|channel|>commentary", []),
        ("<|channel|>analysis<|message|>We<|end|><|start|>assistant<|channel|>final", []),
        ("analysisWe need a query.assistantfinalplasma noise", ["plasma noise"]),
        ("analysisWe need a query.\n\nIt is short.assistantfinalplasma noise", ["plasma noise"]),
        ("analysisWe need a query. " + "The document is about the noise of plasma. " * 2, []),
        ("analysis of plasma noise", ["analysis of plasma noise"]),
        # Cohere, Gemma, and others
        ("<|START_THINKING|>So<|END_THINKING|><|START_RESPONSE|>plasma", ["plasma"]),
        ("<|START_THINKING|>So", []),
        ("<|channel>thought\nSo\n<channel|>plasma", ["plasma"]),
        ("<|channel>thought\n<channel|>plasma", ["plasma"]),
        ("<|channel>thought\nSo", []),
        ("<seed:think>So</seed:think>plasma", ["plasma"]),
        ("◁think▷So◁/think▷plasma", ["plasma"]),
        ("<|begin_of_thought|>So<|end_of_thought|>\n\n<|begin_of_solution|>plasma", ["plasma"]),
    ],
)
def test_reasoning_in_the_formats_of_several_models(answer, expected):
    assert texts(answer) == expected


@pytest.mark.parametrize(
    "answer",
    [
        "what does the <think> tag do",
        "what does <think> do?",
        "what is <think>?",
        "meaning of </think> in qwen3",
        "what is </think>?",
        "difference of <think> and </think> tags",
        "difference of [THINK] and [/THINK]?",
        "what is the <|channel|> token",
        'the "<think>" tag',
        "so " * 20 + "</think> what is x",
        "how is `</think>` removed",
    ],
)
def test_a_tag_among_words_is_a_part_of_the_query(answer):
    assert texts(answer) == [answer]
    assert texts(THOUGHT + answer) == [answer]
    assert texts(json.dumps({"query": answer}), JSON) == [answer]


@pytest.mark.parametrize(
    "answer, expected",
    [
        ("<think>what does <think> do? </think> a query", ["a query"]),
        ("<think>\nwhat does </think> do?\n</think>\na query", ["a query"]),
        ("Sure!\n<think> so </think> a query", ["a query"]),
        ("so </think>\na query", ["a query"]),
        ("so\n</think> a query", ["a query"]),
        ("The user wants X. </think> what is x", ["what is x"]),
        ("so " * 30 + "</think> what is x", ["what is x"]),
    ],
)
def test_tags_of_reasoning_beside_words(answer, expected):
    assert texts(answer) == expected


def test_a_closing_tag_among_words_ends_a_reasoning_that_the_prompt_began():
    for tag in ("<think>", "<think>\n"):
        (query,) = queries_of("so </think> a query", None, chat=True, prefill=tag)
        assert query.text == "a query"


@pytest.mark.parametrize("thought", ["", THOUGHT, "<think>x</think>\n", "no opening tag</think>"])
@pytest.mark.parametrize(
    "regex", ["^(.+)$", r"\A\s*(.+)", "^.+$", "(?m)^(.+)$", r"(?<!\w)(the .*)\Z", r"\s*\b(.+)"]
)
def test_an_anchor_matches_where_the_answer_begins_after_the_reasoning(thought, regex):
    (query,) = queries_of(f"{thought}the noise", re.compile(regex), chat=True)
    assert query == Query("the noise", len(thought))


def test_a_regular_expression_may_begin_with_a_line_end_after_the_reasoning():
    assert texts(THOUGHT + "Query: a\nQuery: b", re.compile(r"\nQuery: (.*)")) == ["a", "b"]


def test_text_of_a_base_model_keeps_quotation_marks_and_tags():
    assert texts('"a query"', chat=False) == ['"a query"']
    assert texts("<think> a", chat=False) == ["<think> a"]
    assert texts("**a**", chat=False) == ["**a**"]
    assert texts("Query:\nDocument: b", "Query:", chat=False) == []


@pytest.mark.parametrize(
    "answer, extract",
    [
        ('Thus.\nQuery: "the noise" \nx', "Query:"),
        ("Thus.\n**Query:**\n**the noise**\nx", "Query:"),
        ("Thus.\n**Query**: the noise\nx", "Query:"),
        (THOUGHT + "the noise", None),
        ("the\n2. the noise", re.compile(r"\d\. (.*)")),
        ('{"query": "the noise"}', {"json": "query"}),
        ("of: the noise", lambda text: "the noise"),
    ],
)
def test_log_probs_are_those_of_the_tokens_of_the_query(answer, extract):
    """Tokens are characters here, so that the tokens of a query are its characters."""
    ends = list(range(1, len(answer) + 1))
    completion = Completion(answer, [-float(end) for end in ends], "stop", ends)
    (query,) = queries_of(answer, extract, chat=True)
    start = answer.rindex("the noise")
    assert query == Query("the noise", start)
    assert log_probs_of(completion, query) == [-float(start + i + 1) for i in range(9)]


@pytest.mark.parametrize(
    "answer, extract, expected, raw",
    [
        ('{"thought": "about sea corals", "query": "sea corals"}', JSON, "sea corals", None),
        ('{"query": "what is \\"AC/DC\\""}', JSON, 'what is "AC/DC"', 'what is \\"AC/DC\\"'),
        ('{"query": "caf\\u00e9 noir"}', JSON, "café noir", "caf\\u00e9 noir"),
        ('{"query": "\\"AC/DC\\""}', JSON, "AC/DC", '\\"AC/DC\\"'),
        ('{"query": "a \n b"}', JSON, "a b", "a \n b"),  # a line end as it is
        ('{"query": "a\\tb"}', JSON, "a b", "a\\tb"),
        ('{"query": ["x", " “the noise” "]}', JSON, "the noise", None),
        (THOUGHT + '{"query": "so \\\\ it"}', JSON, "so \\ it", "so \\\\ it"),
        (
            "Query: a\nlong query.",
            re.compile("Query: (.*)", re.S),
            "a long query.",
            "a\nlong query.",
        ),
    ],
)
def test_log_probs_of_a_query_in_another_form_are_those_of_its_place(
    answer, extract, expected, raw
):
    ends = list(range(1, len(answer) + 1))
    completion = Completion(answer, [-float(end) for end in ends], "stop", ends)
    query = queries_of(answer, extract, chat=True)[-1]
    start = answer.rindex(raw or expected)
    assert query.text == expected
    written = range(start + 1, start + len(raw or expected) + 1)
    assert log_probs_of(completion, query) == [-float(end) for end in written]


def test_the_place_of_a_text_of_a_function_is_unknown_if_it_occurs_twice():
    answer = "sea corals: a query is\nsea corals"
    (query,) = queries_of(answer, lambda text: text.splitlines()[-1], chat=True)
    assert query == Query("sea corals", None)


def test_a_value_of_json_begins_in_the_prefill():
    prefill, answer = '{"query": "what is \\"', 'AC/DC\\""}'
    (query,) = queries_of(answer, JSON, chat=True, prefill=prefill)
    assert query == Query('what is "AC/DC"', -10, 7)
    completion = Completion(answer, [-1.0] * 9, "stop", list(range(1, 10)))
    assert log_probs_of(completion, query) == [-1.0] * 7


def test_brackets_without_end_are_no_json():
    assert texts("[" * 20_000, JSON) == texts('{"query":' * 5_000, JSON) == []
    assert texts("{ \n" * 20_000 + '{ "query": "a"}', JSON) == ["a"]


@pytest.mark.parametrize(
    "answer",
    [
        *("x y" + "</query>" * 20_000, "<query>" * 20_000 + "x y", "1. " * 20_000 + "x y"),
        *("here is a query " * 20_000, "analysisA\n" * 20_000, "a </think> b " * 20_000),
        *("{" * 100_000, "query " * 20_000 + "\nb", "Sure, " * 20_000 + "\nb"),
    ],
)
def test_long_answers_take_time_in_proportion(answer):
    """A quadratic search would take minutes."""
    started = time.process_time()
    for extract in (None, JSON, "Query:"):
        texts(answer, extract)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "prefill, answer, extract, expected",
    [
        ("Query:", "the noise\nmore", "Query:", "the noise"),
        ('{"query": "', 'the noise", "a": 1}', JSON, "the noise"),
        ('{"query', '": "the noise"}', JSON, "the noise"),
        ('{"', 'query": "the noise"}', JSON, "the noise"),
        ('{"query": "', 'query"}', JSON, "query"),  # the text is in the prefill too
        ('{"query": "How do', 'I sort?"}', JSON, "How do I sort?"),
        ('{"query": "Rust:', 'sort"}', JSON, "Rust: sort"),
        ('{"query": "如何', '排序"}', JSON, "如何排序"),
        ("How do", "I sort?", re.compile("How.*"), "How do I sort?"),
        ("How do", "I sort?", lambda text: text, "How do I sort?"),
        ('Query: "', 'the noise"', "Query:", "the noise"),
        ("How do", "I sort?", None, "I sort?"),
        ("<think>", "Query: no\n</think>Query: the noise", "Query:", "the noise"),
        ("कैसे", "करें सॉर्ट", re.compile(".+"), "कैसे करें सॉर्ट"),
        ('{"query": "कैसे', 'करें"}', JSON, "कैसे करें"),
        ("كيفَ", "أرتب", re.compile(".+"), "كيفَ أرتب"),
        ("কি", "করে", re.compile(".+"), "কি করে"),
        ("எப்படி", "செய்வது", re.compile(".+"), "எப்படி செய்வது"),
        ("אֵיךְ", "למיין", re.compile(".+"), "אֵיךְ למיין"),
        ("cafe\u0301", "noir", re.compile(".+"), "cafe\u0301 noir"),
        ("어떻게", "정렬", re.compile(".+"), "어떻게 정렬"),
        ("how?", "so", re.compile(".+"), "how? so"),
        ("كيف؟", "أرتب", re.compile(".+"), "كيف؟ أرتب"),
        ("วิธี", "เรียง", re.compile(".+"), "วิธีเรียง"),
        ("どうやって", "並べる", re.compile(".+"), "どうやって並べる"),
        ("ប្រើ", "របៀប", re.compile(".+"), "ប្រើរបៀប"),
        ("<think></think>", "the noise", None, "the noise"),
    ],
)
def test_a_prefill_is_a_part_of_the_answer(prefill, answer, extract, expected):
    """Log-probabilities are those of the characters of the query that the model wrote."""
    (query,) = queries_of(answer, extract, chat=True, prefill=prefill)
    assert query.text == expected
    ends = list(range(1, len(answer) + 1))
    completion = Completion(answer, [-float(end) for end in ends], "stop", ends)
    written = next(expected[i:] for i in range(len(expected)) if expected[i:] in answer)
    start = answer.index(written)
    assert log_probs_of(completion, query) == [-float(start + i + 1) for i in range(len(written))]


@pytest.mark.parametrize(
    "prefill, answer, extract",
    [
        ("Query: a hint", "", "Query:"),
        ("Query: a hint", "", lambda text: "A HINT"),
        ("Query: a hint\nQuery:", "\n", re.compile("Query: (.*)")),  # ends in the prefill
        ('{"type": "claim", "query": "', 'the noise"}', {"json": "type"}),
        ("<think>", "Thus, the noise", None),
        ("<think>", "Query: the noise", "Query:"),
    ],
)
def test_a_prefill_alone_has_no_query(prefill, answer, extract):
    assert queries_of(answer, extract, chat=True, prefill=prefill) == []


def test_the_tag_at_the_end_of_a_prompt():
    assert reasoning_tag("assistant\n<think>\n") == "<think>"
    assert reasoning_tag("assistant\n[THINK]") == "[THINK]"
    assert reasoning_tag("model\n<|channel>thought\n") == "<|channel>thought"
    assert reasoning_tag("model\n<|channel>thought\n<channel|>") == ""
    harmony = "<|start|>assistant<|channel|>analysis<|message|>"
    assert reasoning_tag(harmony) == "<|channel|>analysis<|message|>"
    assert reasoning_tag(harmony.replace("analysis", "final")) == ""
    assert reasoning_tag("assistant\n<think>\n\n</think>\n\n") == reasoning_tag("") == ""


def test_tokens_that_hold_a_part_of_the_query_count():
    completion = Completion("ab: cd ef", [-1.0, -2.0, -3.0, -4.0], "stop", [3, 6, 7, 9])
    assert log_probs_of(completion, Query("cd", 4)) == [-2.0]
    assert log_probs_of(completion, Query("d e", 5)) == [-2.0, -3.0, -4.0]


def test_unknown_log_probs_are_none():
    whole = Completion("a query", [-1.0], "stop")
    assert log_probs_of(whole, Query("a query", 0)) == [-1.0]
    assert log_probs_of(whole, Query("query", 2)) is None  # without positions
    assert log_probs_of(Completion("a query", None, "stop", [1, 7]), Query("a query", 0)) is None
    assert log_probs_of(Completion("a", [-1.0], "stop", [1]), Query("aa", None)) is None


@pytest.mark.parametrize(
    "value, error, message",
    [
        (7, TypeError, "a marker such as .*, not 7"),
        ({"xml": "query"}, TypeError, "extract must be a marker"),
        ({"json": 7}, TypeError, "extract must be a marker"),
        ("", ValueError, "must not be an empty string"),
    ],
)
def test_invalid_values_are_refused(value, error, message):
    with pytest.raises(error, match=message):
        check_extract(value)


def test_a_function_that_returns_something_else_is_an_error():
    for value in ([7], 7, {"query": "a"}, b"a"):
        expected = rf"extract must return a string or several, .* gave {re.escape(repr(value))}"
        with pytest.raises(TypeError, match=expected):
            queries_of("a", lambda text, value=value: value, chat=True)


def test_descriptions_for_manifests():
    assert describe_extract("Query:") == "Query:"
    assert describe_extract({"json": "q"}) == {"json": "q"}
    assert describe_extract(re.compile("a", re.I)) == {"regex": "a", "flags": 34}
    assert describe_extract(texts)["function"] == f"{texts.__module__}.texts"
