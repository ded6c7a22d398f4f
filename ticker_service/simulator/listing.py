"""Which underlyings, shares and odd contracts the simulated exchange lists. Data only.

Lots and strike steps as in kite.md §8.4. Names follow the real market where that helps a reader;
prices are round inventions.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class ExpiryRule(StrEnum):
    """When options of an underlying end."""

    WEEKLY = "weekly"
    MONTHLY = "monthly"


@dataclass(frozen=True, slots=True, kw_only=True)
class Underlying:
    """An index with futures and options."""

    name: str
    index_symbol: str
    index_exchange_token: int
    index_exchange: str
    exchange: str
    spot_inr: float
    volatility_per_year: float
    lot_size: int
    strike_step_inr: int
    expiry_weekday: int
    options_expire: ExpiryRule


TUESDAY: Final = 1
THURSDAY: Final = 3

UNDERLYINGS: Final = (
    Underlying(
        name="NIFTY",
        index_symbol="NIFTY 50",
        index_exchange_token=1001,
        index_exchange="NSE",
        exchange="NFO",
        spot_inr=26_000.0,
        volatility_per_year=0.125,
        lot_size=65,
        strike_step_inr=50,
        expiry_weekday=TUESDAY,
        options_expire=ExpiryRule.WEEKLY,
    ),
    Underlying(
        name="BANKNIFTY",
        index_symbol="NIFTY BANK",
        index_exchange_token=1016,
        index_exchange="NSE",
        exchange="NFO",
        spot_inr=58_500.0,
        volatility_per_year=0.145,
        lot_size=30,
        strike_step_inr=100,
        expiry_weekday=TUESDAY,
        options_expire=ExpiryRule.MONTHLY,
    ),
    Underlying(
        name="SENSEX",
        index_symbol="SENSEX",
        index_exchange_token=1,
        index_exchange="BSE",
        exchange="BFO",
        spot_inr=85_000.0,
        volatility_per_year=0.12,
        lot_size=20,
        strike_step_inr=100,
        expiry_weekday=THURSDAY,
        options_expire=ExpiryRule.WEEKLY,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoneContract:
    """A future outside the index families, listed so that every price scale is on the wire."""

    name: str
    exchange: str
    segment: str
    exchange_token: int
    price_inr: float
    price_step_inr: float
    lot_size: int
    volatility_per_year: float


LONE_CONTRACTS: Final = (
    LoneContract(
        name="USDINR",
        exchange="CDS",
        segment="CDS-FUT",
        exchange_token=1_342,
        price_inr=89.4125,
        price_step_inr=0.0025,
        lot_size=1,
        volatility_per_year=0.04,
    ),
    LoneContract(
        name="NATURALGAS",
        exchange="NCO",
        segment="NCO-FUT",
        exchange_token=121_611,
        price_inr=378.2,
        price_step_inr=0.1,
        lot_size=1,
        volatility_per_year=0.45,
    ),
)

# Symbol, company, price. The seven with their own exchange token keep the one they have at NSE,
# because examples of Kite clients name them.
EQUITY_EXCHANGE_TOKENS: Final = {
    "RELIANCE": 2885,
    "INFY": 1594,
    "TCS": 11536,
    "HDFCBANK": 1333,
    "ICICIBANK": 4963,
    "SBIN": 3045,
    "M&M": 2031,
}
INVENTED_EXCHANGE_TOKEN_FIRST: Final = 90_001
"""Above every exchange token of the shares above."""

EQUITIES: Final = (
    ("RELIANCE", "RELIANCE INDUSTRIES", 1545.0),
    ("INFY", "INFOSYS", 1540.0),
    ("TCS", "TATA CONSULTANCY SERV LT", 3110.0),
    ("HDFCBANK", "HDFC BANK", 998.0),
    ("ICICIBANK", "ICICI BANK", 1372.0),
    ("SBIN", "STATE BANK OF INDIA", 978.0),
    ("M&M", "MAHINDRA & MAHINDRA", 3720.0),
    ("ADANIENT", "ADANI ENTERPRISES", 2420.0),
    ("ADANIPORTS", "ADANI PORT & SEZ", 1490.0),
    ("APOLLOHOSP", "APOLLO HOSPITALS ENTER. L", 7450.0),
    ("ASIANPAINT", "ASIAN PAINTS", 2860.0),
    ("AXISBANK", "AXIS BANK", 1270.0),
    ("BAJAJ-AUTO", "BAJAJ AUTO", 8900.0),
    ("BAJFINANCE", "BAJAJ FINANCE", 1010.0),
    ("BAJAJFINSV", "BAJAJ FINSERV", 2050.0),
    ("BEL", "BHARAT ELECTRONICS", 418.0),
    ("BHARTIARTL", "BHARTI AIRTEL", 2150.0),
    ("CIPLA", "CIPLA", 1510.0),
    ("COALINDIA", "COAL INDIA", 378.0),
    ("DRREDDY", "DR. REDDY'S LABORATORIES", 1245.0),
    ("EICHERMOT", "EICHER MOTORS", 7080.0),
    ("ETERNAL", "ETERNAL", 305.0),
    ("GRASIM", "GRASIM INDUSTRIES", 2720.0),
    ("HCLTECH", "HCL TECHNOLOGIES", 1610.0),
    ("HDFCLIFE", "HDFC LIFE INS CO", 765.0),
    ("HINDALCO", "HINDALCO INDUSTRIES", 795.0),
    ("HINDUNILVR", "HINDUSTAN UNILEVER", 2430.0),
    ("INDIGO", "INTERGLOBE AVIATION", 5850.0),
    ("ITC", "ITC", 405.0),
    ("JIOFIN", "JIO FIN SERVICES", 305.0),
    ("JSWSTEEL", "JSW STEEL", 1160.0),
    ("KOTAKBANK", "KOTAK MAHINDRA BANK", 2090.0),
    ("LT", "LARSEN & TOUBRO", 4020.0),
    ("MARUTI", "MARUTI SUZUKI INDIA", 15900.0),
    ("MAXHEALTH", "MAX HEALTHCARE INS", 1180.0),
    ("NESTLEIND", "NESTLE INDIA", 1260.0),
    ("NTPC", "NTPC", 326.0),
    ("ONGC", "OIL AND NATURAL GAS CORP.", 247.0),
    ("POWERGRID", "POWER GRID CORP", 276.0),
    ("SBILIFE", "SBI LIFE INSURANCE CO", 2020.0),
    ("SHRIRAMFIN", "SHRIRAM FINANCE", 820.0),
    ("SUNPHARMA", "SUN PHARMACEUTICAL IND L", 1770.0),
    ("TATACONSUM", "TATA CONSUMER PRODUCT", 1165.0),
    ("TATASTEEL", "TATA STEEL", 169.0),
    ("TECHM", "TECH MAHINDRA", 1460.0),
    ("TITAN", "TITAN COMPANY", 3900.0),
    ("TRENT", "TRENT", 4380.0),
    ("ULTRACEMCO", "ULTRATECH CEMENT", 11800.0),
    ("WIPRO", "WIPRO", 245.0),
    ("M&MFIN", "M&M FIN. SERVICES", 318.0),
    ("ABB", "ABB INDIA", 5120.0),
    ("ACC", "ACC", 1850.0),
    ("AMBUJACEM", "AMBUJA CEMENTS", 555.0),
    ("AUROPHARMA", "AUROBINDO PHARMA", 1210.0),
    ("BANDHANBNK", "BANDHAN BANK", 150.0),
    ("BANKBARODA", "BANK OF BARODA", 288.0),
    ("BERGEPAINT", "BERGER PAINTS (I)", 560.0),
    ("BHEL", "BHEL", 284.0),
    ("BIOCON", "BIOCON", 410.0),
    ("BOSCHLTD", "BOSCH", 36800.0),
    ("BPCL", "BHARAT PETROLEUM CORP  LT", 366.0),
    ("BRITANNIA", "BRITANNIA INDUSTRIES", 5860.0),
    ("CANBK", "CANARA BANK", 147.0),
    ("CHOLAFIN", "CHOLAMANDALAM IN & FIN CO", 1690.0),
    ("COLPAL", "COLGATE PALMOLIVE", 2180.0),
    ("DABUR", "DABUR INDIA", 520.0),
    ("DIVISLAB", "DIVI'S LABORATORIES", 6480.0),
    ("DLF", "DLF", 735.0),
    ("GAIL", "GAIL (INDIA)", 183.0),
    ("GODREJCP", "GODREJ CONSUMER PRODUCTS", 1145.0),
    ("HAL", "HINDUSTAN AERONAUTICS", 4610.0),
    ("HAVELLS", "HAVELLS INDIA", 1440.0),
    ("HEROMOTOCO", "HERO MOTOCORP", 5780.0),
    ("ICICIGI", "ICICI LOMBARD GIC", 1990.0),
    ("IDEA", "VODAFONE IDEA", 10.5),
    ("IDFCFIRSTB", "IDFC FIRST BANK", 80.0),
    ("INDUSINDBK", "INDUSIND BANK", 840.0),
    ("IOC", "INDIAN OIL CORP", 168.0),
    ("IRCTC", "INDIAN RAIL TOUR CORP", 705.0),
    ("JINDALSTEL", "JINDAL STEEL", 1050.0),
    ("LICI", "LIFE INSURA CORP OF INDIA", 905.0),
    ("LUPIN", "LUPIN", 2030.0),
    ("MARICO", "MARICO", 735.0),
    ("MUTHOOTFIN", "MUTHOOT FINANCE", 3760.0),
    ("NAUKRI", "INFO EDGE (INDIA)", 1340.0),
    ("PFC", "POWER FIN CORP", 372.0),
    ("PIDILITIND", "PIDILITE INDUSTRIES", 1480.0),
    ("PNB", "PUNJAB NATIONAL BANK", 122.0),
    ("RECLTD", "REC", 360.0),
    ("SAIL", "STEEL AUTHORITY OF INDIA", 137.0),
    ("SIEMENS", "SIEMENS", 3180.0),
    ("SRF", "SRF", 2860.0),
    ("TATAPOWER", "TATA POWER CO", 390.0),
    ("TORNTPHARM", "TORRENT PHARMACEUTICALS L", 3720.0),
    ("TVSMOTOR", "TVS MOTOR COMPANY", 3440.0),
    ("UPL", "UPL", 750.0),
    ("VEDL", "VEDANTA", 515.0),
    ("VOLTAS", "VOLTAS", 1350.0),
    ("YESBANK", "YES BANK", 22.75),
    ("QUOTEWELL", 'QUOTEWELL "Q", SONS & CO', 212.4),
)
