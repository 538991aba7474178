"""Every sentence the document viewer and the upload say, in English and in Chinese. It knows no HTML."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from app.chat.words import words_for


@dataclass(frozen=True, slots=True)
class DocumentWords:
    """The words in one language; the fields' defaults are English. The scripts get them as JSON."""

    language: str = "en"
    # the viewer
    open: str = "Open in document"
    close: str = "Close"
    loading: str = "Loading …"
    text: str = "Text"
    image: str = "Page"
    page: str = "Page {page}"
    page_of: str = "Page {page} of {pages}"
    previous_page: str = "Previous page"
    next_page: str = "Next page"
    page_image: str = "Page {page} as in the document"
    earlier: str = "Earlier text"
    later: str = "Later text"
    not_placed: str = "The quoted words could not be marked on this page beyond doubt; the text view shows them."
    no_original: Mapping[str, str] = field(
        default_factory=lambda: {
            "none": "The file itself is not at hand, so this is its text.",
            "changed": "The file was changed after it was indexed, so this is the text that was read.",
            "vanished": "The file is not where it was any more, so this is the text that was read.",
            "": "The pages cannot be shown ({reason}), so this is the text that was read.",
        }
    )
    gone: str = "This document was changed or removed since the answer was written; ask again."
    failed: str = "The document could not be loaded ({reason})."
    lost: str = "no connection to Fathom"
    # the upload
    add: str = "Add documents"
    add_title: str = "Add documents to a collection"
    drop: str = "Drop files or folders to add them"
    drop_here: str = "Drop files or folders here, or"
    choose_files: str = "Choose files"
    choose_folder: str = "Choose a folder"
    formats: str = "PDF, Word, PowerPoint, Excel, EPUB, HTML, Markdown, text, code and more; up to {mb} MB each."
    collection: str = "Collection"
    new_collection: str = "New collection …"
    new_name: str = "Name of the new collection"
    start: str = "Add {n} files"
    start_one: str = "Add 1 file"
    cancel: str = "Stop"
    retry: str = "Try again"
    more: str = "Add more"
    remove: str = "Take {name} off the list"
    none_chosen: str = "No files are chosen yet."
    too_many: str = "Up to {n} files can be added at once; the first {n} are on the list."
    overall: str = "{done} of {total} files"
    chosen: str = "ready to add"
    sending: str = "sending …"
    queued: str = "waiting"
    reading: str = "reading …"
    embedding: str = "indexing …"
    indexed: str = "indexed, {n} passages"
    indexed_one: str = "indexed, 1 passage"
    cancelled: str = "not added (stopped)"
    summary: str = "{indexed} added, {refused} refused"
    summary_cancelled: str = "Stopped: {indexed} added, {left} not added"
    new_is_there: str = "The collection “{name}” is new; reload the page to choose it."
    reload: str = "Reload"
    restarted: str = "Fathom was restarted meanwhile: what says “indexed” is kept; add the other files again."
    interrupted: str = "The connection to Fathom was lost; what says “indexed” is kept."
    busy: str = "Another program is changing this collection; try again when it has finished."
    bad_name: str = (
        "A collection's name has up to 60 letters, digits, '-', '_' and '.', and begins with a letter or digit."
    )
    too_large: str = "is larger than the {mb} MB allowed; split it."
    unreadable: str = "could not be read by the browser; is it still there?"
    collection_failed: str = "The collection could not be written: {reason}"
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why a file is refused, by the reason's short word; where there is none, the sentence of reading is shown."""


ENGLISH = DocumentWords()
CHINESE = DocumentWords(
    language="zh",
    open="在文档中查看",
    close="关闭",
    loading="正在载入……",
    text="文本",
    image="页面",
    page="第 {page} 页",
    page_of="第 {page} 页，共 {pages} 页",
    previous_page="上一页",
    next_page="下一页",
    page_image="文档第 {page} 页的原貌",
    earlier="前文",
    later="后文",
    not_placed="无法在本页上确切标出引文；请看文本视图。",
    no_original={
        "none": "原文件不在手边，以下是其文本。",
        "changed": "文件在建立索引后已被修改，以下是当时读取的文本。",
        "vanished": "文件已不在原处，以下是当时读取的文本。",
        "": "无法显示页面（{reason}），以下是当时读取的文本。",
    },
    gone="写出回答之后，此文档已被修改或移除；请重新提问。",
    failed="无法载入文档（{reason}）。",
    lost="与 Fathom 的连接已断开",
    add="添加文档",
    add_title="向文档集添加文档",
    drop="松开鼠标即可添加文件或文件夹",
    drop_here="将文件或文件夹拖到这里，或",
    choose_files="选择文件",
    choose_folder="选择文件夹",
    formats="支持 PDF、Word、PowerPoint、Excel、EPUB、HTML、Markdown、文本、代码等；每个文件最大 {mb} MB。",
    collection="文档集",
    new_collection="新建文档集……",
    new_name="新文档集的名称",
    start="添加 {n} 个文件",
    start_one="添加 1 个文件",
    cancel="停止",
    retry="重试",
    more="继续添加",
    remove="从列表中移除 {name}",
    none_chosen="尚未选择文件。",
    too_many="一次最多添加 {n} 个文件；列表中是前 {n} 个。",
    overall="{total} 个文件中已完成 {done} 个",
    chosen="待添加",
    sending="正在传送……",
    queued="等待中",
    reading="正在读取……",
    embedding="正在建立索引……",
    indexed="已索引，{n} 段",
    indexed_one="已索引，1 段",
    cancelled="未添加（已停止）",
    summary="已添加 {indexed} 个，拒绝 {refused} 个",
    summary_cancelled="已停止：添加了 {indexed} 个，{left} 个未添加",
    new_is_there="文档集“{name}”是新建的；刷新本页即可选用。",
    reload="刷新",
    restarted="Fathom 在此期间重新启动过：标为“已索引”的已保存；其余文件请重新添加。",
    interrupted="与 Fathom 的连接已断开；标为“已索引”的已保存。",
    busy="另一个程序正在修改此文档集；请待其完成后重试。",
    bad_name="文档集名称最多 60 个字符，可用文字、数字、“-”“_”“.”，并以文字或数字开头。",
    too_large="超过 {mb} MB 的限制；请拆分。",
    unreadable="浏览器无法读取此文件；它还在原处吗？",
    collection_failed="无法写入文档集：{reason}",
    reasons={
        "empty": "文件为空，没有可索引的内容。",
        "binary": "不是文本，也不是其名称所示的格式；请改正扩展名或不要添加。",
        "encoding": "无法识别文字编码；请另存为 UTF-8。",
        "encrypted": "有密码保护；请另存一份无密码的副本。",
        "corrupt": "文件已损坏或不是其名称所示的格式；请重新下载或保存。",
        "no-text": "没有文字（可能是扫描图片）；请先做文字识别（OCR）。",
        "unsupported": "不支持此类文件；请转换为文本、HTML 或 PDF。",
        "too-large": "文件超过大小限制；请拆分。",
        "bomb": "解压后大得不合常理；请不要添加。",
        "memory": "读取所需内存超过限制；请拆分。",
        "time": "未能在时限内读完；请拆分。",
        "crash": "解析时崩溃；文件可能已损坏，请重新保存。",
        "cancelled": "工作停止时正在读取。",
        "name": "文件名不可用；请改名。",
        "taken": "文档集中已有来自文件夹的同名文档；请改名。",
        "twice": "列表中后面还有同名文件，以后者为准。",
        "quota": "上传空间已满；请删除不再需要的文档集。",
        "disk": "磁盘空间不足；请先腾出空间。",
        "incomplete": "文件没有完整传到；请重试。",
        "files": "一次添加的文件过多；请分批添加。",
    },
)


def document_words_for(accept_language: str) -> DocumentWords:
    """The words for a browser's Accept-Language header, in the language the page itself speaks."""
    return CHINESE if words_for(accept_language).language == "zh" else ENGLISH


def as_json(words: DocumentWords) -> dict[str, Any]:
    """What the scripts need of the words."""
    return {name: value for name, value in asdict(words).items() if name != "reasons"}
