"""The packages that provide well-known modules. Knows only names."""

from __future__ import annotations

import difflib

ALIKE = 0.8  # min similarity of a misspelt name, from 0 to 1
OTHER_NAMES = {  # package by module
    "attr": "attrs", "bs4": "beautifulsoup4", "Bio": "biopython", "cairo": "pycairo",
    "can": "python-can", "chess": "chess", "community": "python-louvain", "Crypto": "pycryptodome",
    "cv2": "opencv-python-headless", "dateutil": "python-dateutil", "discord": "discord.py",
    "docx": "python-docx", "dotenv": "python-dotenv", "faiss": "faiss-cpu", "fitz": "PyMuPDF",
    "flask_cors": "Flask-Cors", "flask_sqlalchemy": "Flask-SQLAlchemy", "git": "GitPython",
    "github": "PyGithub", "gi": "PyGObject", "googleapiclient": "google-api-python-client",
    "grpc": "grpcio", "haystack": "haystack-ai", "imblearn": "imbalanced-learn",
    "jose": "python-jose", "jwt": "PyJWT", "kafka": "kafka-python", "ldap": "python-ldap",
    "magic": "python-magic", "markdown": "Markdown", "MySQLdb": "mysqlclient", "nacl": "PyNaCl",
    "OpenGL": "PyOpenGL", "OpenSSL": "pyOpenSSL", "osgeo": "GDAL", "parsel": "parsel",
    "pcap": "pypcap", "PIL": "pillow", "pkg_resources": "setuptools", "pptx": "python-pptx",
    "psycopg2": "psycopg2-binary", "pymysql": "PyMySQL", "pythoncom": "pywin32",
    "rest_framework": "djangorestframework", "serial": "pyserial", "shapefile": "pyshp",
    "skimage": "scikit-image", "sklearn": "scikit-learn", "slugify": "python-slugify",
    "socks": "PySocks", "speech_recognition": "SpeechRecognition", "tabula": "tabula-py",
    "telegram": "python-telegram-bot", "tlz": "toolz", "umap": "umap-learn", "usb": "pyusb",
    "vlc": "python-vlc", "websocket": "websocket-client", "win32api": "pywin32",
    "win32com": "pywin32", "wx": "wxPython", "xlwings": "xlwings", "yaml": "PyYAML",
    "zmq": "pyzmq", "Xlib": "python-xlib", "Levenshtein": "python-Levenshtein",
    "mpl_toolkits": "matplotlib", "pylab": "matplotlib", "IPython": "ipython",
}  # fmt: skip
SAME_NAMES = """
    aiohttp altair arrow astropy black bokeh boto3 bottle celery cffi click colorama
    cryptography cycler cython dask datasets deap dill django docker duckdb emoji fastapi
    flask fsspec gensim geopandas gradio h5py httpx humanize hypothesis imageio jax jinja2
    joblib keras kivy langchain librosa lightgbm llvmlite loguru lxml matplotlib mechanize
    mlflow moviepy mpmath mypy networkx nltk numba numpy openai openpyxl optuna pandas
    paramiko pendulum plotly polars prophet psutil pyarrow pydantic pygame pymongo pypdf
    pytest pytz rdflib redis regex requests rich scapy scipy scrapy seaborn selenium shapely
    simpy six spacy sqlalchemy starlette statsmodels streamlit sympy tabulate tenacity
    tensorflow tiktoken toml torch torchvision tornado tqdm transformers typer unidecode
    urllib3 uvicorn wordcloud xarray xgboost xlrd xlsxwriter
"""


def package_of(module: str) -> tuple[str, bool]:
    """The package to install for a module, and whether that is certain.

    If it is not, the name is that of a module that may be meant, or empty.
    """
    if module in OTHER_NAMES:
        return OTHER_NAMES[module], True
    if module in SAME_NAMES.split():
        return module, True
    known = [*OTHER_NAMES, *SAME_NAMES.split()]
    close = difflib.get_close_matches(module, sorted(known), n=1, cutoff=ALIKE)
    return (close[0] if close else ""), False
