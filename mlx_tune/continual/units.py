"""Units and currencies beside a number: 5 mg is not 5 g, and 16GB is 16 GB.

Only what stands in the table is a unit, in English, German, French or Spanish; any other word after
a number, as in "12 seats", is none. What no unit has been written to may have any.
"""

import re

_TABLE = """
second s sec secs seconds Sekunde Sekunden seconde secondes segundo segundos
minute min mins minutes Minuten minuto minutos
hour h hr hrs hours Stunde Stunden heure heures hora horas
day days Tag Tage Tagen jour jours día días
week weeks Woche Wochen semaine semaines semana semanas
month months Monat Monate Monaten mois meses
year years yr yrs Jahr Jahre Jahren ans année années año años
mm millimetre millimetres millimeter millimeters
cm centimetre centimetres centimeter centimeters Zentimeter
m metre metres meter meters mètre mètres metro metros
km kilometre kilometres kilometer kilometers kilomètre kilomètres kilómetro kilómetros
inch inches
foot ft feet
mile miles
mg milligram milligrams Milligramm milligramme milligrammes miligramo miligramos
g gram grams Gramm gramme grammes gramo gramos
kg kilo kilos kilogram kilograms Kilogramm kilogramme kilogrammes kilogramo kilogramos
ml millilitre millilitres milliliter milliliters mililitro mililitros
l L litre litres liter liters litro litros
bit bits
byte bytes
KB kilobyte kilobytes
MB megabyte megabytes
GB gigabyte gigabytes
TB terabyte terabytes
mW milliwatt milliwatts
W watt watts
kW kilowatt kilowatts
MW megawatt megawatts
mV millivolt millivolts
V volt volts
kV kilovolt kilovolts
Hz hertz
kHz kilohertz
MHz megahertz
GHz gigahertz
% percent Prozent
€ EUR euro euros
$ USD dollar dollars
cent cents
£ GBP pound pounds
¥ JPY yen
"""
_UNITS = {name: line.split()[0] for line in _TABLE.strip().splitlines() for name in line.split()}
_FOLDED = {name.casefold(): unit for name, unit in _UNITS.items() if len(name) > 1}
_DEGREES = {"C": "°C", "Celsius": "°C", "F": "°F", "Fahrenheit": "°F"}

_BEFORE = re.compile(r"(?:(?<![\w.)\]-])[-\u2212]|\b(minus ))?(?:([$€£¥]) ?)?$", re.IGNORECASE)
_AFTER = re.compile(
    r"[ ]?(°[ ]?|degrees?[ ]|Grad[ ]|degrés?[ ]|grados?[ ])?([^\W\d_]+(?![\w'’])|[%€$£¥])"
)
_SEEN = 12  # characters before a number that are looked at


def unit_of(word: str, *, is_joined: bool = False) -> str:
    """Return the one name of a unit; empty for a word that is none.

    Case counts where it tells two units apart, as in mW and MW.

    Args:
        word: A unit as it is written.
        is_joined: Whether it is written to its number: a 5W may be a room.
    """
    if is_joined and len(word) == 1 and word.isupper():
        return ""
    return _UNITS.get(word) or _FOLDED.get(word.casefold(), "")


def before_number(text: str, start: int) -> tuple[str, str, int]:
    """Return the sign and the currency that stand before a number, and where they begin.

    Args:
        text: With the number.
        start: Where it begins.
    """
    first = max(0, start - _SEEN)
    match = _BEFORE.search(text[first:start])
    written = match[0] if match else ""
    currency = match[2] if match and match[2] else ""
    is_negative = written.removesuffix(" ").removesuffix(currency) != ""
    return "-" if is_negative else "", unit_of(currency), start - len(written)


def after_number(text: str, end: int) -> tuple[str, int]:
    """Return the unit that stands after a number, and where it ends; "" and ``end`` for none."""
    match = _AFTER.match(text, end)
    if match is None:
        return "", end
    unit = _DEGREES.get(match[2], "") if match[1] else unit_of(match[2])
    return (unit, match.end()) if unit else ("", end)
