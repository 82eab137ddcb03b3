"""The generated parts of README.md and README.ko.md: their numbers come from the ledgers, by id."""

import json
from pathlib import Path
from typing import Any, Literal

import nbformat

from gradcam_gan.scoring.scores import VEIL
from gradcam_gan.studies import ledger, paths
from gradcam_gan.studies.epoch_heatmaps.tables import HEALTHY_FID, HEALTHY_RECALL
from gradcam_gan.studies.readings import COMPARED_LAYERS
from gradcam_gan.studies.results import read_manifests
from gradcam_gan.studies.which_explanation.rule import explanation_name

Language = Literal["en", "ko"]
Ledger = dict[str, Any]
ENGLISH: Language = "en"
KOREAN: Language = "ko"
CLAIMS = ("C1", "C2", "C3", "C4", "C5", "C6", "P2", "P3", "P4", "P5", "P6")
VERDICTS_KO = {
    "reproduced": "재현됨",
    "partly": "일부 재현됨",
    "not reproduced": "재현되지 않음",
    "inconclusive": "판단할 수 없음",
}
AMONG_KO = {"all": "모든 방법 중에서", "maps of a layer": "한 층의 맵 중에서"}
MEASURED = ("energy", "randomised", "gap")
UNITS_KO = {"networks": "네트워크 {}개", "pairs": "{}쌍"}
# each claim, and what its number is
CLAIMS_KO = {
    "C1": ("약 15 에폭에서 특징을 가장 뚜렷하게 인식한다", "13~17 에폭보다 덜 뚜렷한 에폭의 비율"),
    "C2": (
        "비슷한 에폭의 모델을 비교하면 최적의 모델(18 에폭)을 찾을 수 있다",
        "18 에폭보다 덜 뚜렷한 에폭의 비율",
    ),
    "C3": (
        "어떤 샘플 이미지는 모든 에폭에서 같은 특징을 보이므로 적절한 샘플을 골라야 한다",
        "한 이미지의 변화와 다른 네트워크에서의 변화 사이의 순위 상관",
    ),
    "C4": (
        "히트맵으로 고른 잘 학습된 D는 잘 학습된 G를 얻을 가능성을 높인다",
        "고른 에폭보다 G가 더 나쁜 에폭의 비율",
    ),
    "C5": ("어떤 이미지에서 D는 숫자가 아니라 그 주변을 본다", "리프트가 0.5보다 작은 이미지의 비율"),
    "C6": (
        "활성화 맵의 70 % 이상이 중요한 이미지를 지우면 더 잘 학습한다",
        "log FID의 변화: 가장 많이 덮인 20 %를 뺀 것에서 무작위 20 %를 뺀 것을 뺌",
    ),
    "P2": ("Diffusion-GAN의 순방향 확산은 D의 입력을 다양하게 한다", "조건부 DCGAN과의 log FID 차이"),
    "P3": (
        "DuDGAN은 클래스 조건부 GAN에 확산을 넣고 분류기를 더한다",
        "평균화한 조건부 DCGAN과의 log FID 차이",
    ),
    "P4": ("D의 설명을 부가 정보로 쓰면 생성기가 좋아진다", "일반 학습과의 log FID 차이"),
    "P5": (
        "회귀 네트워크를 위한 Grad-CAM",
        "타깃의 기울기와의 순위 상관: Grad-CAM에서 가장 좋은 대조군을 뺌",
    ),
    "P6": (
        "클래스 활성화 히트맵을 이미지에 더하는 데이터 변환",
        "정확도의 차이: 히트맵을 더한 것에서 더하지 않은 것을 뺌",
    ),
}


def update(language: Language, text: str) -> str:
    """A README with its generated parts up to date, from the study's ledger, and from quick's where it has nothing."""
    study, quick = (ledger.read(paths.FIGURES / profile) for profile in ("study", "quick"))
    blocks = {
        "claims": claims_markdown(study, language),
        "decides": decides_markdown(study, language),
        "recommendation": recommendation_markdown(study if study["recommended"] else quick, language),
        "figures": figures_markdown(paths.FIGURES / "quick"),
        "faults": faults_markdown(paths.FIGURES / "faults.json"),
    }
    for name, content in blocks.items():
        text = with_block(text, name, content)
    return text


def with_block(text: str, name: str, content: str) -> str:
    """A text with the part between ``<!-- name: start -->`` and ``<!-- name: end -->`` replaced, if it has one."""
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    if start not in text:
        return text
    before, rest = text.split(start)
    return f"{before}{start}\n{content}\n{end}{rest.split(end)[1]}"


def claims_markdown(found: Ledger, language: Language = "en") -> str:
    """A profile's verdicts as a table: a row a claim, with one number; then how its networks trained."""
    english = language == "en"
    heads = (
        "claim | verdict | one number, 95 % interval | notebook"
        if english
        else "주장 | 판정 | 하나의 수, 95 % 구간 | 노트북"
    )
    lines = [f"| {heads} |", "|---|---|---|---|"]
    for claim, row in found["claims"].items():
        n, planned, where = found["numbers"][claim]["n"], row["planned"], row["notebook"]
        text, quantity = (row["text"], found["numbers"][claim]["quantity"]) if english else CLAIMS_KO[claim]
        verdict = row["verdict"] if english else VERDICTS_KO[row["verdict"]]
        interim = f", interim ({n} of {planned})" if english else f", 중간 결과 ({planned}개 중 {n}개)"
        number = said(found, claim, language)
        if not n:
            number = "needs more networks" if english else "네트워크가 더 필요함"
        lines.append(
            f"| {claim}: {text} | **{verdict}**{interim if n < planned else ''} | {quantity}: {number} | "
            f"[{where[:2]}](notebooks/{where}.ipynb) |"
        )
    if missing := [name for name in CLAIMS if name not in found["claims"]]:
        names = ", ".join(missing)
        lines += [
            "",
            f"Not measured yet, its trainings are still to come: {names}."
            if english
            else f"아직 측정하지 않음(학습이 남아 있음): {names}.",
        ]
    return "\n".join([*lines, "", _networks(found, language)])


def _networks(found: Ledger, language: Language) -> str:
    """How many networks trained well, and what Holm's correction leaves."""
    well, unwell, unveiled = (
        len(found["networks"][name]) for name in ("healthy", "unhealthy", "healthy_without_veil")
    )
    held, count = ", ".join(found["holds_after_holm"]), well + unwell
    if language == "ko":
        return (
            f"**네트워크 {count}개 중 {well}개가 잘 학습되었다**: 그림 1의 다섯 행 중 네 행 이상에서 G의 FID가 "
            f"{HEALTHY_FID:g}보다 작고 재현율이 {HEALTHY_RECALL:g}보다 크다. 255단계 중 {VEIL}보다 어두운 화소를 "
            f"검은색으로 보면 {unveiled}개가 잘 학습되었다: 학습하는 동안 G의 배경이 눈에는 보이지 않고 점수에는 "
            "보이는 회색이 된다([01](notebooks/01_train_dcgan.ipynb)). "
            f"C1~C6에 Holm 보정을 하면 남는 주장: {held or '없음'}."
        )
    return (
        f"**{well} of {count} networks trained well**: at four of five rows of Figure 1 or more, G's FID is below "
        f"{HEALTHY_FID:g} and its recall above {HEALTHY_RECALL:g}. Where what is darker than {VEIL} of 255 grey levels "
        f"counts as black, {unveiled} did: over the training G's background turns a grey that the scores see and the "
        f"eye does not ([01](notebooks/01_train_dcgan.ipynb)). Holm's correction over C1 to C6 leaves {held or 'none'} "
        "at its level."
    )


def decides_markdown(found: Ledger, language: Language = "en") -> str:
    """What decides the picture, in three sentences."""

    def number(id_: str) -> str:
        return said(found, id_, language)

    empty, focus = (
        ", ".join(f"{layer} {number(f'{what}/{layer}')}" for layer in COMPARED_LAYERS)
        for what in ("empty", "focus")
    )
    turned = ", ".join(found["turned_when_settled"])
    if language == "ko":
        lines = [
            f"**층.** 비어 있는 맵의 비율: {empty}. 우연을 넘는 초점 K: {focus}.",
            f"**BatchNorm 통계.** 체크포인트에 저장된 running 통계로는 에폭마다 K가 움직이는 크기: "
            f"{number('jump/running')}. 통계가 가라앉은 뒤: {number('jump/settled')}. "
            f"이때 뒤집히는 판정: {turned or '없음'}.",
            f"**D의 결정만이 아니다.** 진짜와 생성된 이미지를 가르는 AUC가 0.5에서 떨어진 정도: 맵의 합 "
            f"{number('auc/map')}, D의 로짓 {number('auc/logit')}.",
        ]
    else:
        lines = [
            f"**The layer.** A share of the maps is empty: {empty}; and K, the focus above chance, is {focus}.",
            f"**BatchNorm's statistics.** From one epoch to the next K moves by {number('jump/running')} with the "
            f"running statistics that a checkpoint holds, and by {number('jump/settled')} once they have settled; the "
            f"verdicts that turn: {turned or 'none'}.",
            f"**Not D's decision alone.** The AUC of real against generated lies {number('auc/map')} from 0.5 for the "
            f"sum of the map, and {number('auc/logit')} for D's own logit.",
        ]
    return "\n".join(f"- {line}" for line in lines)


def recommendation_markdown(found: Ledger, language: Language = "en") -> str:
    """Which explanation to use, of all and among a layer's maps (notebook 6), as a list; then of how many networks."""
    if not found["recommended"]:
        return ""
    lines, runs = [], found["results"]["table_recommendation"]["runs"]
    networks, profile = sum(run.startswith("explanations/") for run in runs), found["profile"]
    for row in found["recommended"]:
        if language == "en":
            lines.append(
                f"- **Of {row['among']}:** {row['sentence'].partition('. Of ')[0].removesuffix('.')}."
            )
        elif row["method"] is None:
            lines.append(f"- **{AMONG_KO[row['among']]}:** 추천할 것이 없다.")
        else:
            energy, other, gap = (
                said(found, f"{what}/{row['method']}/{row['layer']}", language) for what in MEASURED
            )
            name = explanation_name(row["method"], row["layer"])
            lines.append(
                f"- **{AMONG_KO[row['among']]}:** {name}. 심어 둔 표식 안에 있는 근거의 비율: "
                f"{energy}. 가중치를 다시 뽑은 네트워크의 맵과의 순위 상관: {other}. 덜 중요한 화소부터 지울 때와 더 "
                f"중요한 화소부터 지울 때의 로짓 차이(우연이면 0): {gap}."
            )
    stands = f"Networks of the `{profile}` profile: {networks}; of one alone, intervals are over its images."
    if language == "ko":
        stands = f"`{profile}` 프로필, 네트워크 {networks}개. 하나뿐이면 구간은 이미지에 대한 것이다."
    return "\n".join([*lines, "", stands])


def figures_markdown(folder: Path) -> str:
    """The table of notebooks: question and results, from the notebooks' titles and manifests."""
    lines = ["| notebook | question | figures and tables |", "|---|---|---|"]
    for name, manifest in read_manifests(folder).items():
        title = nbformat.read(paths.NOTEBOOKS / f"{name}.ipynb", 4).cells[0].source.splitlines()[0]
        question = title.split("·", 1)[1].strip()
        results = ", ".join(f"`{result}`" for result in manifest["results"])
        lines.append(f"| [{name}](notebooks/{name}.ipynb) | {question} | {results} |")
    return "\n".join(lines)


def faults_markdown(path: Path) -> str:
    """What ``make torture`` counted, as the README's sentence.

    Args:
        path: the campaigns' counts (``tests/torture``).
    """
    found = json.loads(path.read_text())
    kills, changed, disk, workflows = (
        found[name] for name in ("kills", "mutations", "full_disk", "two_workflows")
    )
    wrong = len(changed["failures"])
    return (
        f"`make torture` does harm on purpose. {kills['kills']:,} kills of small trainings at random moments, "
        f"{kills['within_a_write']} of them within a write: {kills['different']} ended otherwise than the "
        f"uninterrupted one. {changed['mutations']:,} changed files: {changed['refused']:,} refused in one clear line, "
        f"{changed['identical']:,} read with the same result, {changed['another']:,} with another one that is allowed "
        f"and that nothing can notice (parameters, files without a checksum), {wrong} that crashed, hung, ran code or "
        f"gave a wrong result. The disk full at each of {disk['writes']} writes: {disk['different']} without a clear "
        f"line or with another end. Two workflows on one folder, or one killed, in {workflows['cases']} cases: "
        f"{workflows['different']} with another result."
    )


def said(found: Ledger, id_: str, language: Language) -> str:
    """A number of a ledger with its interval, such as ``0.42 [0.35, 0.49], n=12 networks``."""
    one = ledger.interval(found, id_)
    text = str(one) if one.n else str(one).partition(", n=")[0]
    if language == "en" or not one.n:
        return text
    return f"{text.partition(', n=')[0]} ({UNITS_KO[one.unit].format(one.n)})"
