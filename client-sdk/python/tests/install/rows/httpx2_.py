from rows import Calls, httpx_


def calls(url: str) -> Calls:
    return httpx_.calls(url, "httpx2")
