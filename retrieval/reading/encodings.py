"""Bytes in, text and the name of its encoding out; refuses rather than loses a character without saying so.

Order: byte order mark, UTF-32/16 by the pattern of zeros, strict UTF-8, the encoding the file declares, then a contest
among the legacy encodings. The contest counts frequent characters, because charset-normalizer needs more text than a
short Chinese note has (measured in tests/retrieval/reading/test_encodings.py). Knows no format.
"""

import codecs
import re
from dataclasses import dataclass

from retrieval.reading.normalising import normalise
from retrieval.reading.refusal import Refusal


@dataclass(frozen=True, slots=True)
class Decoded:
    """`text` as decoded, before normalisation, without byte order mark. `replaced` counts U+FFFD put in for bytes
    that are no character; `sure` is False where another encoding was nearly as likely."""

    text: str
    encoding: str
    replaced: int = 0
    sure: bool = True

    def warnings(self) -> list[str]:
        """What a reader of the text should know, in words."""
        if self.replaced:
            return [f"lossy decode: {self.replaced:,} places are not valid {self.encoding} and were replaced by U+FFFD"]
        if not self.sure:
            return [f"encoding guessed as {self.encoding}; save the file as UTF-8 if characters look wrong"]
        return []


_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: its mark begins with the same two bytes
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (b"\x84\x31\x95\x33", "gb18030"),
)
_SAMPLE = 32_768
_BEGINNING = 1 << 20
_CONTROL_BYTES = bytes(byte for byte in range(32) if byte not in b"\t\n\r\x0b\x0c\x08\x1b") + b"\x7f"
# A lossy decode is accepted while one place in fifty is wrong: a file cut in the middle of a character, a stray byte.
_LOSSY_SHARE = 0.02


def decode(data: bytes, declared: str | None = None) -> Decoded:
    """Decode a whole file. `declared` is what the file says of itself (a coding cookie, <meta charset>).

    Raises Refusal: "binary" (no text at all), "encoding" (text, but in no encoding that fits).
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _marked(data[len(mark) :], encoding)
    controls = len(data) - len(data.translate(None, _CONTROL_BYTES))
    if controls:  # the halves of UTF-16 units: zeros in English, any byte in Chinese
        wide = _wide(data)
        if wide is not None:
            return wide
    if controls > max(8, len(data) // 20) or (controls and controls * 5 >= len(data)):
        raise _binary(controls, len(data))
    escaped = _escape_coded(data)
    if escaped is not None:
        return escaped
    try:
        return Decoded(data.decode("utf-8"), "utf-8")
    except UnicodeDecodeError:
        damaged = _damaged_utf8(data)
    if controls > max(2, len(data) // 200):
        raise _binary(controls, len(data))
    for encoding in _families(declared):
        text = _strict(data, encoding)
        if text is not None and score(_telling(text), encoding) > 0.2:
            return Decoded(text, encoding)
    if damaged is not None:
        return damaged
    wide = _wide(data)
    if wide is not None:
        return wide
    return _contest(data)


def _binary(controls: int, size: int) -> Refusal:
    return Refusal(
        "binary",
        f"is no text: {controls:,} of its {size:,} bytes are control codes; if it is a document, correct its suffix.",
    )


def _marked(data: bytes, encoding: str) -> Decoded:
    try:
        return Decoded(data.decode(encoding), encoding)
    except UnicodeDecodeError:
        text = data.decode(encoding, "replace")
    replaced = _replacements(text, data, encoding)
    if replaced > max(1, len(text) * _LOSSY_SHARE):
        raise Refusal("encoding", f"begins like {encoding} but is something else; save it as UTF-8.")
    return Decoded(text, encoding, replaced)


def _replacements(text: str, data: bytes, encoding: str) -> int:
    """How many U+FFFD the decoder put in: those the writer had put there himself are not losses."""
    own = data.count("\ufffd".encode(encoding)) if encoding.startswith("utf-8") else 0
    return max(1, text.count("\ufffd") - own)


def _damaged_utf8(data: bytes) -> Decoded | None:
    """UTF-8 with a few bad bytes: many whole multi-byte characters for every bad place, which chance does not give."""
    head = data[:_BEGINNING].decode("utf-8", "replace")
    if head.count("\ufffd") > 1 + len(head) * _LOSSY_SHARE * 2:
        return None  # plainly another encoding: spare a large file the counting below
    text = data.decode("utf-8", "replace")
    replaced = _replacements(text, data, "utf-8")
    whole = sum(1 for letter in text if letter > "\x7f") - text.count("\ufffd")
    # At the end of the file a cut character is the plainest explanation, however short the text.
    cut_at_end = replaced == 1 and text.endswith("\ufffd") and whole >= 2
    if cut_at_end or (replaced <= whole * _LOSSY_SHARE * 5 and replaced <= max(1, len(text) * _LOSSY_SHARE)):
        return Decoded(text, "utf-8", replaced)
    return None


def _wide(data: bytes) -> Decoded | None:
    """UTF-16 or UTF-32 without a mark: decodes strictly and reads like text."""
    best: tuple[float, str] | None = None
    for encoding, width in (("utf-32-le", 4), ("utf-32-be", 4), ("utf-16-le", 2), ("utf-16-be", 2)):
        if len(data) < 2 * width:
            continue
        try:
            sample = codecs.getincrementaldecoder(encoding)().decode(data[: 2 * _SAMPLE])
        except UnicodeDecodeError:
            continue
        bad = sum(1 for letter in sample if letter < " " and letter not in "\t\n\r\x0b\x0c")
        likely = _wide_score(sample)
        if bad <= len(sample) // 100 and (best is None or likely > best[0]):
            best = (likely, encoding)
    if best is None or best[0] < 0.5:
        return None
    try:
        return _marked(data, best[1])
    except Refusal:
        return None


def _wide_score(sample: str) -> float:
    """Share of characters that texts are made of. Bytes of another encoding read two by two give rare ideographs."""
    points = 0.0
    for letter in sample:
        if letter < "\x80" or letter in _FREQUENT_ANY or letter in _PUNCTUATION:
            points += 1
        elif "\xc0" <= letter <= "\u06ff" or "\u3040" <= letter <= "\u30ff":
            points += 0.9
        elif "\uac00" <= letter <= "\ud7a3":
            points += 0.3
        elif "\u4e00" <= letter <= "\u9fff":
            points += 0.45 if _level_one(letter) else -0.5
        else:
            points -= 0.5
    return points / max(1, len(sample))


def _escape_coded(data: bytes) -> Decoded | None:
    """The seven-bit encodings of East Asian mail; they pass for ASCII."""
    if b"\x1b$" in data:
        for encoding in ("iso2022_jp_2", "iso2022_kr"):
            text = _strict(data, encoding)
            if text is not None:
                return Decoded(text, encoding)
    elif data.isascii() and b"~{" in data and b"~}" in data:
        text = _strict(data, "hz")
        if text is not None and score(_telling(text), "gb18030") > 0.4:
            return Decoded(text, "hz")
    return None


# What a name declares -> the codecs to try, widest superset first: web pages say gb2312 and mean GBK.
_SUPERSETS = {
    **dict.fromkeys("gb2312 gbk gb18030 hz-gb-2312 x-gbk cp936 euc-cn".split(), ("gb18030",)),
    **dict.fromkeys("big5 big5-hkscs big5hkscs cp950 x-x-big5".split(), ("cp950", "big5hkscs")),
    **dict.fromkeys("shift_jis shift-jis sjis x-sjis cp932 windows-31j".split(), ("cp932", "shift_jis_2004")),
    **dict.fromkeys("euc-kr ks_c_5601-1987 cp949".split(), ("cp949",)),
    **dict.fromkeys(
        "iso-8859-1 latin-1 latin1 latin_1 us-ascii ascii windows-1252 cp1252".split(), ("cp1252", "latin-1")
    ),
}


def _families(declared: str | None) -> tuple[str, ...]:
    name = (declared or "").strip().lower()
    if not name or name in ("utf-8", "utf8") or name.startswith(("utf-16", "utf-32", "utf_16", "utf_32")):
        return ()
    if name in _SUPERSETS:
        return _SUPERSETS[name]
    try:
        known = codecs.lookup(name)
    except (LookupError, ValueError):
        return ()
    return (known.name,) if getattr(known, "_is_text_encoding", True) else ()


def _contest(data: bytes) -> Decoded:
    """The legacy encoding whose strict decode reads most like a text of its own language.

    Judged by the file's beginning; the whole must then decode without an error.
    """
    results: list[tuple[float, str, str]] = []
    for encoding in ("gb18030", "cp950", "big5hkscs", "cp932", "euc_jp", "cp949", "cp1252", "latin-1"):
        if encoding == "big5hkscs" and any(name == "cp950" for _, name, _ in results):
            continue  # the superset is asked only where the common form does not fit
        if encoding == "latin-1" and any(name == "cp1252" for _, name, _ in results):
            continue
        text = _beginning(data, encoding)
        if text is not None:
            # Even short of evidence, Chinese is the likelier guess among Fathom's users.
            prior = 0.06 if encoding in ("gb18030", "cp950") else 0.0
            results.append((score(_telling(text), encoding) + prior, encoding, text))
    results.sort(key=lambda result: -result[0])
    if not results or results[0][0] < 0.35:
        other = _by_statistics(data)
        if other is not None:
            return other
    for place, (points, encoding, beginning) in enumerate(results):
        if points < 0.05:
            break
        whole = _strict(data, encoding)
        if whole is None and encoding == "cp950":
            whole = _strict(data, "big5hkscs")
        if whole is None:
            continue
        runner_up = next((result for result in results[place + 1 :] if result[2] != beginning), None)
        sure = points >= 0.35 and (runner_up is None or points - runner_up[0] > 0.08)
        return Decoded(whole, encoding, sure=sure)
    raise Refusal(
        "encoding", "is in no encoding that fits (Unicode, Chinese, Japanese, Korean, Western…); save it as UTF-8."
    )


def _beginning(data: bytes, encoding: str) -> str | None:
    """The first part, decoded strictly but for a character cut at its end; None if it does not decode."""
    head = data[:_BEGINNING]
    try:
        return codecs.getincrementaldecoder(encoding)().decode(head, final=len(head) == len(data))
    except (UnicodeDecodeError, LookupError):
        return None


# The alphabets for which letter statistics work; its multi-byte guesses on short texts are worse than the contest's.
_ALPHABETS = (
    "cp1251 koi8_r koi8_u iso8859_5 cp1253 iso8859_7 cp1250 iso8859_2 cp1254 cp1255 cp1256 cp1257 cp874 cp866 mac_roman"
)


def _by_statistics(data: bytes) -> Decoded | None:
    """charset-normalizer's opinion, for the single-byte alphabets that need letter statistics (Cyrillic, Greek…)."""
    from charset_normalizer import from_bytes

    match = from_bytes(data[:_SAMPLE], cp_isolation=_ALPHABETS.split()).best()
    if match is None or match.chaos > 0.15:
        return None
    text = _strict(data, match.encoding)
    if text is None or any("\x80" <= letter <= "\x9f" for letter in text[:_SAMPLE]):
        return None
    return Decoded(text, match.encoding, sure=False)


def _strict(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return None


def _telling(text: str) -> str:
    """The part that tells encodings apart: non-ASCII characters with their neighbours, up to a sample's length."""
    found: list[str] = []
    size = 0
    for match in re.finditer("[ -~]?[^\x00-\x7f]+[ -~]?", text):
        found.append(match.group())
        size += len(found[-1])
        if size > _SAMPLE // 2:
            break
    return "\n".join(found)


_SIMPLIFIED = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去"
    "法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关"
    "点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先海通"
    "教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期"
    "市直德资命山金指克许统区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难且权思王象完设式色路记南品住告类求据程北边"
    "死张该交规万取拉格望觉术领共确传师观清今切院让识候带导争运笔试请您谢谢吗呢吧啊测编码件读写"
)
_TRADITIONAL = frozenset(
    "的一是不了在人有我他這個們中來上大為和國地到以說時要就出會可也你對生能而子那得於著下自之年過發後作裡用道行所然家種事成方多經麼去"
    "法學如都同現當沒動面起看定天分還進好小部其些主樣理心她本前開但因只從想實日軍者意無力它與長把機十民第公此已工使情明性知全三又關"
    "點正業外將兩高間由問很最重並物手應戰向頭文體政美相見被利什二等產或新己制身果加西斯月話合回特代內信表化老給世位次度門任常先海通"
    "教兒原東聲提立及比員解水名真論處走義各入幾口認條平系氣題活爾更別打女變四神總何電數安少報才結反受目太量再感建務做接必場件計管期"
    "市直德資命山金指克許統區保至隊形社便空決治展馬科司五基眼書非則聽白卻界達光放強即像難且權思王象完設式色路記南品住告類求據程北邊"
    "死張該交規萬取拉格望覺術領共確傳師觀清今切院讓識候帶導爭運臺灣灣筆試請您謝謝嗎呢吧啊測編碼讀寫檔"
)
_JAPANESE = frozenset(
    "日一人年大十二本中長出三時行見月後前生五間上東四今金九入学高円子外八六下来気小七山話女北午百書先名川千水半男西電校語土木聞食車何南"
    "万毎白天母火右読友左休父雨会同事自社発者地業方新場員立開手力問代明動京目通言理体田主題意不作用度強公持野以思家世多正安院心界教文元"
    "重近考画海売知道集別物使品計死特私始朝運終台広住無真有口少町料工建空急止送切転研足究楽起着店病質待試族銀早映親験英医仕去味写字答夜"
    "音注帰古歌買悪図週室歩風紙黒花春赤青館屋色走秋夏習駅洋旅服夕借曜飲肉貸堂鳥飯勉冬昼茶弟牛魚兄犬妹姉漢"
)
_KOREAN = frozenset(
    "이다는을의가에고한하지로도은를서사기인그나아자리어시대라해일전제정수것있보들과주구장만부여원스성상게오으안유소조공무관비국세우"
)
_KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa\u30fc]")
_PUNCTUATION = frozenset("，。、；：？！「」『』“”‘’《》（）〈〉【】…—·～　％／＋－＝０１２３４５６７８９ＡＢＣ")
_FREQUENT_ANY = _SIMPLIFIED | _TRADITIONAL | _JAPANESE | _KOREAN
_WESTERN_SIGNS = frozenset("’‘“”–—…€£•°§©®™«»²³½¼¾µ·±ºª¡¿¢×\xa0\xad")

_TYPOGRAPHIC = "’‘“”–—…\xa0«»€"


def _level_one(letter: str) -> bool:
    """In the everyday half of GB 2312 (3,755 ideographs) or of Big5 (5,401)."""
    try:
        if 0xB0 <= letter.encode("gb2312")[0] <= 0xD7:
            return True
    except UnicodeEncodeError:
        pass
    try:
        return 0xA4 <= letter.encode("big5")[0] <= 0xC6
    except UnicodeEncodeError:
        return False


def score(sample: str, encoding: str) -> float:
    """How much `sample` (see _telling) reads like a text written in `encoding`: 1 is best, below 0 is noise."""
    if encoding in ("cp1252", "latin-1", "iso8859-1", "iso8859-15"):
        return _western_score(sample)
    family = {"gb18030": _SIMPLIFIED, "gbk": _SIMPLIFIED, "gb2312": _SIMPLIFIED, "hz": _SIMPLIFIED}
    family |= {
        "cp950": _TRADITIONAL,
        "big5": _TRADITIONAL,
        "big5hkscs": _TRADITIONAL,
        "cp949": _KOREAN,
        "euc_kr": _KOREAN,
    }
    frequent = family.get(encoding, _JAPANESE)
    japanese, korean = frequent is _JAPANESE, frequent is _KOREAN
    points = count = 0.0
    for match in re.finditer("[^\x00-\x7f]+", sample):
        run = match.group()
        # One ideograph glued between Latin letters is an accented letter misread ("Schr鰀inger").
        start, end = match.span()
        glued = len(run) == 1 and sample[max(0, start - 1) : start].isalpha() and sample[end : end + 1].isalpha()
        count += len(run)
        for letter in run:
            if glued:
                points -= 1
            elif letter in frequent:
                points += 1
            elif letter in _PUNCTUATION:
                points += 0.7
            elif japanese and _KANA.match(letter):
                points += 1
            elif korean and "\uac00" <= letter <= "\ud7a3":
                points += 0.4
            elif "\u4e00" <= letter <= "\u9fff":
                points += (0.15 if korean else 0.3) if _level_one(letter) else -0.5
            else:
                points -= 0.2 if _KANA.match(letter) else 0.6
    return points / count if count else 0.0


def _western_score(sample: str) -> float:
    """Accented letters stand alone among ASCII letters; two side by side are two halves of something else."""
    points = count = 0.0
    for match in re.finditer("[^\x00-\x7f]+", sample):
        run = match.group()
        count += len(run)
        letters = [letter for letter in run if letter.isalpha() and letter not in _WESTERN_SIGNS]
        start, end = match.span()
        in_word = sample[max(0, start - 1) : start].isalpha() or sample[end : end + 1].isalpha()
        for letter in run:
            if letter in _WESTERN_SIGNS:
                points += 0.6 if len(run) == 1 or not run.strip(_TYPOGRAPHIC) else -0.3
            elif "\xc0" <= letter <= "\xff" or letter in "œŒšŠžŽŸ":
                pair = len(letters) == 2 and in_word and run.islower()  # "Größe", "créée"
                points += (0.9 if in_word else 0.1) if len(letters) == 1 else 0.3 if pair else -0.7
            else:
                points -= 0.8
    return points / count if count else 0.0


def decode_and_normalise(data: bytes, declared: str | None = None) -> tuple[str, str]:
    """Text and encoding of a small piece (a mail part), normalised. Raises Refusal."""
    decoded = decode(data, declared)
    return normalise(decoded.text), decoded.encoding
