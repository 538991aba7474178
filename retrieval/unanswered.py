"""What a model wrote → whether it says that the passages hold no answer, in English or Chinese."""

import re

from retrieval.sentences import sentence_spans

# What models write when the passages have no answer, though they were not refused it.
_NO_ANSWER = re.compile(
    r"(?:passages?|documents?|text|context|information)\b[^.]{0,60}\b(?:do(?:es)? not|don['’]t|doesn['’]t|did not)\s+"
    r"(?:\w+ly\s+)?(?:answer|contain|mention|provide|say|specify|give|include|state)"
    r"|(?:cannot|can['’]t|can not|could not|couldn['’]t|unable to)\s+(?:be )?(?:\w+ly\s+)?"
    r"(?:answer(?:ed)?|determined?|find|found)\b"
    r"|(?:段落|文档|文中|资料|文本)[^。]{0,20}(?:没有|并未|未|无法)(?:回答|提到|提及|说明|提供|包含)|无法(?:回答|确定)"
    r"|(?:段落|文档|文中|资料|文本)[^。]{0,20}没有[^。]{0,12}(?:信息|内容|答案)",
    re.IGNORECASE,
)


def says_no_answer(text: str) -> bool:
    """Whether a model's own words are that the passages hold no answer."""
    return bool(_NO_ANSWER.search(text))


def only_says_no_answer(text: str) -> bool:
    """The same of every sentence: what else would say something could still be an answer."""
    found = (text[start:end] for start, end in sentence_spans(text))
    sentences = [sentence for sentence in found if any(map(str.isalpha, sentence))]  # a citation's number is none
    return bool(sentences) and all(map(says_no_answer, sentences))
