"""The words of reading exercises, English and Chinese: what marks a relation between sentences, and how to ask for it.

Data only. Connectives follow table 2 of AdaptLLM (arXiv:2309.09530) in kind, not in wording.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

FOLLOWS, AGAINST, ADDS, AGAIN = "follows", "against", "adds", "again"


@dataclass(frozen=True, slots=True)
class Words:
    """One language. Questions have places {…} for what is asked about; several wordings, one is drawn."""

    layouts: tuple[str, ...]
    """A question with its answer."""
    openings: tuple[str, ...]
    """What stands above the questions of a text."""
    connectives: Mapping[str, tuple[str, ...]]
    """Beginnings of a sentence that say how it relates to the one before."""
    relation: tuple[str, ...]
    relations: Mapping[str, tuple[str, ...]]
    """Answers to `relation`."""
    consequence: tuple[str, ...]
    paraphrase: tuple[str, ...]
    cause: tuple[str, ...]
    definition: tuple[str, ...]
    gap: tuple[str, ...]
    keywords: tuple[str, ...]
    title: tuple[str, ...]
    write: tuple[str, ...]
    """Asks for the text, given its title."""
    go_on: tuple[str, ...]
    """Asks for the second half, given the first."""
    comma: str
    stop: frozenset[str]
    """Words that are no key words."""
    dangling: tuple[str, ...]
    """First words of a sentence that means nothing without the one before."""


ENGLISH = Words(
    layouts=("Question: {question}\nAnswer: {answer}", "Q: {question}\nA: {answer}", "{question}\n{answer}"),
    openings=("", "Questions about the text above", "Exercises"),
    connectives=MappingProxyType(
        {
            FOLLOWS: ("Therefore", "Thus", "Hence", "Consequently", "Accordingly", "As a result", "As a consequence",
                      "For this reason", "For that reason"),
            AGAINST: ("However", "In contrast", "By contrast", "On the other hand", "Nevertheless", "Nonetheless",
                      "Conversely", "On the contrary", "Unfortunately"),
            ADDS: ("Moreover", "Furthermore", "In addition", "Additionally", "Besides", "Similarly", "Likewise"),
            AGAIN: ("In other words", "That is", "Put differently", "To put it another way"),
        }
    ),
    relation=(
        "Is the second statement a consequence of the first, a contrast to it or an addition?\n1. {first}\n2. {second}",
        "First statement: {first}\nSecond statement: {second}\nHow do they relate: consequence, contrast or addition?",
    ),
    relations=MappingProxyType(
        {
            FOLLOWS: ("A consequence.", "The second statement is a consequence of the first."),
            AGAINST: ("A contrast.", "The second statement is a contrast to the first."),
            ADDS: ("An addition.", "The second statement adds to the first."),
        }
    ),
    consequence=("What follows from this? {first}", "{first} What is the consequence?"),
    paraphrase=("Say this in other words: {first}", "{first} How else can this be put?"),
    cause=("What is the reason for this? {effect}", "{effect} Why?"),
    definition=("What {verb} {term}?", "Explain in a sentence what {term} {verb}."),
    gap=("Which word is missing? {gap}", "Fill in the gap: {gap}"),
    keywords=("Write a sentence with the words {words}.", "How are {words} connected? Say it in one sentence."),
    title=("What would be a good title for this text?", "In one line, what is the text about?"),
    write=("Write a text with the title “{title}”.", "“{title}”: tell me about it."),
    go_on=("How does the text go on?", "What comes next?"),
    comma=", ",
    stop=frozenset(
        "about above across after again against all almost along already also although always among and another "
        "any are around because been before being below between both but came can cannot come could did does doing "
        "done down during each either else even ever every few first for from further get gets give given goes "
        "going had has have having her here hers him his how however into its itself just kind know last later "
        "least less like likely long made make makes many may mean means might more most much must near need needs "
        "neither never next none nor not nothing now off often once one only onto other others our out over own "
        "part per perhaps possible quite rather really same second see seem seems several shall she should since "
        "some something soon still such take than that the their them then there therefore these they thing things "
        "think this those though three through thus time times together too toward two under unless until upon use "
        "used useful uses using usually very want was way ways well were what when where whether which while who "
        "whole whose why will with within without work works would yes yet you your instead able example currently "
        "simply different certain according based".split()
    ),
    dangling=("this", "that", "these", "those", "it", "its", "they", "their", "he", "she", "his", "her", "such", "both",
              "so", "but", "and", "or", "then", "also", "here", "there", "we", "i", "otherwise", "instead", "note"),
)  # fmt: skip

CHINESE = Words(
    layouts=("问：{question}\n答：{answer}", "问题：{question}\n回答：{answer}", "{question}\n{answer}"),
    openings=("", "关于上文的问题", "练习"),
    connectives=MappingProxyType(
        {
            FOLLOWS: ("因此", "所以", "于是", "於是", "因而", "由此可见", "正因如此"),
            AGAINST: ("但是", "然而", "不过", "不過", "相反，", "可是", "反之，", "但"),
            ADDS: ("此外", "另外，", "而且", "并且", "並且", "同时，", "同時，", "除此之外", "再者"),
            AGAIN: ("换句话说", "換句話說", "换言之", "換言之", "也就是说", "也就是說", "简言之"),
        }
    ),
    relation=(
        "第二句话是第一句话的结论、转折还是补充？\n1. {first}\n2. {second}",
        "第一句：{first}\n第二句：{second}\n两句话是什么关系：结论、转折，还是补充？",
    ),
    relations=MappingProxyType(
        {
            FOLLOWS: ("结论。", "第二句是由第一句得出的结论。"),
            AGAINST: ("转折。", "第二句与第一句相对，是转折。"),
            ADDS: ("补充。", "第二句是对第一句的补充。"),
        }
    ),
    consequence=("由此可以得出什么？{first}", "{first}这会带来什么结果？"),
    paraphrase=("换一种说法表达这句话：{first}", "{first}这句话还可以怎么说？"),
    cause=("这是为什么？{effect}", "{effect}原因是什么？"),
    definition=("什么是{term}？", "{term}是什么？", "请用一句话解释{term}。"),
    gap=("空格处应填什么词？{gap}", "填空：{gap}"),
    keywords=("用{words}这几个词写一句话。", "{words}之间有什么联系？用一句话说明。"),
    title=("这段文字可以用什么标题？", "用一行话概括这段文字的主题。"),
    write=("请以“{title}”为题写一篇文章。", "请介绍一下：{title}"),
    go_on=("下文是什么？", "请接着往下写。"),
    comma="、",
    stop=frozenset(
        "一个 一种 一些 一样 一次 一般 我们 你们 他们 它们 这个 那个 这些 那些 这样 那样 这种 那种 可以 能够 不能 "
        "没有 不是 就是 只有 还有 所有 如果 因为 所以 但是 而且 并且 以及 或者 还是 已经 需要 进行 使用 通过 根据 "
        "由于 为了 其中 其他 之间 之后 之前 同时 时候 什么 怎么 如何 为什么 因此 然而 不过 此外 例如 比如 包括 "
        "常见 常用 通常 往往 可能 应该 必须 不同 相同 许多 很多 更多 最多 至少 至多 以上 以下 左右 大约 非常 比较 "
        "完全 直接 再次 不会 不要 不再 不必 这里 那里 自己 本身 作为 成为 得到 出现 开始 结束 下面 上面 第一 第二 "
        "第三 两个 三个 多个 每个 某个 论文 提出".split()
    ),
    dangling=("这", "這", "那", "它", "他", "她", "其", "此", "该", "該", "但", "而", "所以", "因此", "于是", "并",
              "也", "还", "又", "就", "两者", "前者", "后者", "然而", "不过", "同时", "另外", "我", "上述", "以上"),
)  # fmt: skip
