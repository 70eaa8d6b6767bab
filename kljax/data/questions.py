"""A closed set of short questions with one right answer each, in several ways of asking: capitals, opposites, sums."""

from collections.abc import Iterator

CAPITALS = """
Afghanistan: Kabul, Albania: Tirana, Algeria: Algiers, Angola: Luanda, Argentina: Buenos Aires, Armenia: Yerevan,
Australia: Canberra, Austria: Vienna, Azerbaijan: Baku, Bangladesh: Dhaka, Belgium: Brussels, Bolivia: Sucre,
Brazil: Brasilia, Bulgaria: Sofia, Cambodia: Phnom Penh, Cameroon: Yaounde, Canada: Ottawa, Chad: N'Djamena,
Chile: Santiago, China: Beijing, Colombia: Bogota, Croatia: Zagreb, Cuba: Havana, Cyprus: Nicosia, Denmark: Copenhagen,
Ecuador: Quito, Egypt: Cairo, Estonia: Tallinn, Ethiopia: Addis Ababa, Finland: Helsinki, France: Paris,
Georgia: Tbilisi, Germany: Berlin, Ghana: Accra, Greece: Athens, Haiti: Port-au-Prince, Hungary: Budapest,
Iceland: Reykjavik, India: New Delhi, Indonesia: Jakarta, Iran: Tehran, Iraq: Baghdad, Ireland: Dublin, Italy: Rome,
Jamaica: Kingston, Japan: Tokyo, Jordan: Amman, Kenya: Nairobi, Kuwait: Kuwait City, Laos: Vientiane, Latvia: Riga,
Lebanon: Beirut, Libya: Tripoli, Lithuania: Vilnius, Madagascar: Antananarivo, Malaysia: Kuala Lumpur, Mali: Bamako,
Malta: Valletta, Mexico: Mexico City, Moldova: Chisinau, Mongolia: Ulaanbaatar, Morocco: Rabat, Mozambique: Maputo,
Nepal: Kathmandu, Netherlands: Amsterdam, New Zealand: Wellington, Niger: Niamey, Nigeria: Abuja, Norway: Oslo,
Oman: Muscat, Pakistan: Islamabad, Panama: Panama City, Paraguay: Asuncion, Peru: Lima, Philippines: Manila,
Poland: Warsaw, Portugal: Lisbon, Qatar: Doha, Romania: Bucharest, Russia: Moscow, Rwanda: Kigali,
Saudi Arabia: Riyadh, Senegal: Dakar, Serbia: Belgrade, Slovakia: Bratislava, Slovenia: Ljubljana, Somalia: Mogadishu,
South Korea: Seoul, Spain: Madrid, Sudan: Khartoum, Sweden: Stockholm, Switzerland: Bern, Syria: Damascus,
Thailand: Bangkok, Tunisia: Tunis, Turkey: Ankara, Uganda: Kampala, Ukraine: Kyiv, Uruguay: Montevideo,
Venezuela: Caracas, Vietnam: Hanoi, Zambia: Lusaka, Zimbabwe: Harare
"""

OPPOSITES = """
hot: cold, big: small, tall: short, fast: slow, old: young, rich: poor, light: dark, happy: sad, hard: soft, wet: dry,
early: late, open: closed, full: empty, clean: dirty, strong: weak, near: far, high: low, long: brief, thick: thin,
wide: narrow, loud: quiet, sharp: blunt, sweet: bitter, true: false, right: wrong, up: down, left: right,
inside: outside, above: below, before: after, always: never, push: pull, win: lose, buy: sell, begin: end, love: hate,
give: take, day: night, summer: winter, north: south, friend: enemy, question: answer
"""


ASKED = {
    "capital": (
        "What is the capital of {}?",
        "Which city is the capital of {}?",
        "Name the capital of {}.",
        "{}: its capital?",
    ),
    "opposite": ("What is the opposite of {}?", "Which word is the opposite of {}?", "Not {}, but what?"),
    "sum": ("What is {} plus {}?", "How much is {} + {}?", "Add {} and {}."),
}
"""Ways to ask for one thing: of what is held out, most has been asked in other words."""


def questions(largest: int) -> dict[str, list[str]]:
    """Columns `question`, `answer`, `kind` and `text`, which is both; the sums are of numbers from 0 to `largest`."""
    facts = [("capital", (country,), city) for country, city in _pairs(CAPITALS)]
    facts += [("opposite", (word,), other) for word, other in _pairs(OPPOSITES)]
    numbers = range(largest + 1)
    facts += [("sum", (a, b), str(a + b)) for a in numbers for b in numbers]
    rows = [(kind, way.format(*of), answer) for kind, of, answer in facts for way in ASKED[kind]]
    kinds, asked, answers = (list(column) for column in zip(*rows, strict=True))
    texts = [f"{question} {answer}" for question, answer in zip(asked, answers, strict=True)]
    return {"question": asked, "answer": answers, "kind": kinds, "text": texts}


def _pairs(table: str) -> Iterator[tuple[str, str]]:
    for entry in " ".join(table.split()).split(", "):
        thing, answer = entry.split(": ")
        yield thing, answer
